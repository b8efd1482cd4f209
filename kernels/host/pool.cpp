// Recycled memory for large CPU outputs (host only).
//
// The C allocator hands every large block back to the kernel and faults it in again at the next use, page by page; for
// outputs of 100 MB that costs several times the arithmetic. Blocks of this pool are kept when their tensor dies and are
// given to the next output of about their size. A block travels as a DLPack tensor whose deleter returns it, so torch
// owns it like any other and nobody has to free anything.
#include "../neuron/prelude.cuh"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

// The part of DLPack's C ABI that is needed (dmlc/dlpack, version 0): a tensor and the function that releases it.
typedef struct {
  void* data;
  struct {
    int type, id;
  } device;
  int ndim;
  struct {
    had_u8 code, bits;
    had_u16 lanes;
  } dtype;
  had_i64 *shape, *strides;
  had_u64 byte_offset;
} DLTensor;

typedef struct DLManagedTensor {
  DLTensor tensor;
  void* manager;
  void (*deleter)(struct DLManagedTensor*);
} DLManagedTensor;

#define MAX_DIMS 16

// A tensor of `bytes` bytes; strides in elements, `code` and `bits` are DLPack's.
struct PoolTensor {
  had_i64 shape[MAX_DIMS], strides[MAX_DIMS];
  had_i64 bytes;
  int ndim, code, bits;
};

struct PoolStatistics {
  had_i64 free_bytes, recycled, fresh;  // free bytes held; how many requests were met by an old and by a new block
};

#define MAX_FREE 256
#define HUGE_PAGE ((size_t)2 << 20)

typedef struct {
  DLManagedTensor managed;
  had_i64 sizes[2 * MAX_DIMS];
  void* block;
  size_t capacity;
} Lease;

typedef struct {
  void* block;
  size_t capacity;
} Free;

static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;
static Free pool_free[MAX_FREE];  // oldest first
static int pool_count = 0;
static size_t pool_bytes = 0, pool_limit = (size_t)1 << 30;
static had_i64 pool_reused = 0, pool_fresh = 0;

static void pool_enter(void) { pthread_mutex_lock(&pool_lock); }
static void pool_leave(void) { pthread_mutex_unlock(&pool_lock); }
// A forked child inherits its blocks copy-on-write, and a lock that nobody holds.
__attribute__((constructor)) static void pool_guard_fork(void) { pthread_atfork(pool_enter, pool_leave, pool_leave); }

static Free pool_remove(int i) {
  const Free found = pool_free[i];
  --pool_count;
  memmove(pool_free + i, pool_free + i + 1, (size_t)(pool_count - i) * sizeof(Free));
  pool_bytes -= found.capacity;
  return found;
}

// Smallest free block that holds `bytes` without wasting more than a quarter, else a new one.
static Free pool_take(size_t bytes) {
  Free found = {0, 0};
  int best = -1;
  pool_enter();
  for (int i = 0; i < pool_count; ++i)
    if (pool_free[i].capacity >= bytes && pool_free[i].capacity <= bytes + bytes / 4 + HUGE_PAGE &&
        (best < 0 || pool_free[i].capacity < pool_free[best].capacity))
      best = i;
  if (best >= 0) {
    found = pool_remove(best);
    ++pool_reused;
  } else {
    ++pool_fresh;
  }
  pool_leave();
  if (found.block) return found;
  found.capacity = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
  found.block = aligned_alloc(HUGE_PAGE, found.capacity);
#if defined(MADV_HUGEPAGE)
  if (found.block) madvise(found.block, found.capacity, MADV_HUGEPAGE);  // fewer faults at the first touch; may fail
#endif
  return found;
}

static void pool_shrink(size_t limit) {
  while (pool_count > 0 && pool_bytes > limit) free(pool_remove(0).block);
}

static void pool_give(void* block, size_t capacity) {
  pool_enter();
  if (capacity > pool_limit) {
    free(block);
  } else {
    if (pool_count == MAX_FREE) free(pool_remove(0).block);
    pool_shrink(pool_limit - capacity);
    pool_free[pool_count].block = block;
    pool_free[pool_count++].capacity = capacity;
    pool_bytes += capacity;
  }
  pool_leave();
}

static void lease_end(DLManagedTensor* managed) {
  Lease* lease = (Lease*)managed->manager;
  pool_give(lease->block, lease->capacity);
  free(lease);
}

// A DLManagedTensor whose memory comes from the pool, or null where there is none.
HAD_EXPORT void* HAD_SYMBOL(pool_tensor)(const PoolTensor* asked) {
  Lease* lease = (Lease*)calloc(1, sizeof(Lease));
  if (!lease) return 0;
  const Free taken = pool_take((size_t)asked->bytes);
  if (!taken.block) {
    free(lease);
    return 0;
  }
  lease->block = taken.block;
  lease->capacity = taken.capacity;
  memcpy(lease->sizes, asked->shape, sizeof asked->shape);
  memcpy(lease->sizes + MAX_DIMS, asked->strides, sizeof asked->strides);
  DLTensor* tensor = &lease->managed.tensor;
  tensor->data = taken.block;
  tensor->device.type = 1;  // CPU
  tensor->ndim = asked->ndim;
  tensor->dtype.code = (had_u8)asked->code;
  tensor->dtype.bits = (had_u8)asked->bits;
  tensor->dtype.lanes = 1;
  tensor->shape = lease->sizes;
  tensor->strides = lease->sizes + MAX_DIMS;
  lease->managed.manager = lease;
  lease->managed.deleter = lease_end;
  return &lease->managed;
}

// Sets how many bytes of free blocks are kept, and frees what is beyond; 0 empties the pool.
HAD_EXPORT void HAD_SYMBOL(pool_set_limit)(had_i64 bytes) {
  pool_enter();
  pool_limit = (size_t)bytes;
  pool_shrink(pool_limit);
  pool_leave();
}

HAD_EXPORT void HAD_SYMBOL(pool_statistics)(PoolStatistics* out) {
  pool_enter();
  *out = {(had_i64)pool_bytes, pool_reused, pool_fresh};
  pool_leave();
}
