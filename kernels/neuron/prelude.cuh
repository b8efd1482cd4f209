// The dialect in which every kernel is written, for three compilers:
//
//   GPU   NVRTC (through CuPy's RawModule) or nvcc        a lane group is one float, one thread owns it
//   host  the C++ compiler that builds the package         a lane group is one vector register: 4, 8 or 16 floats
//   shim  the C++ compiler with -DHAD_SHIM, tests only     the GPU text, run block by block on the CPU
//
// `lanes` is the value that one statement works on. Arithmetic, comparison and `mask ? a : b` read the same for a
// float and for a vector, so the neuron's step is written once and decides every spike alike: no multiply-add is
// contracted (-ffp-contract=off, --fmad=false) and `had_exp` below replaces the compilers' own exponentials.
#ifndef HAD_PRELUDE_CUH
#define HAD_PRELUDE_CUH

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define HAD_GPU 1
#define HAD_INLINE static __device__ __forceinline__
#define HAD_KERNEL extern "C" __global__ void
#elif defined(HAD_SHIM)
#define HAD_GPU 1
#define HAD_INLINE static inline
#define HAD_KERNEL extern "C" void
struct HadDim3 {
  unsigned int x, y, z;
};
static thread_local HadDim3 threadIdx, blockIdx, blockDim, gridDim;
#else
#define HAD_GPU 0
#define HAD_INLINE static inline __attribute__((always_inline))
#endif

// NVRTC sees no <stdint.h>, so the widths are spelled out; both compilers agree on them.
typedef long long had_i64;
typedef unsigned long long had_u64;
typedef unsigned int had_u32;
typedef short had_i16;
typedef unsigned short had_u16;
typedef unsigned char had_u8;

// A kernel is given one struct, by value on a GPU and by address on a CPU. The Python files mirror each of them field by
// field (had_snn.native.Parameters); a pointer to what is not there is null.
//
// Exported names carry the variant, e.g. had_lif_forward_avx2_f32, where the build compiles a file more than once.
#define HAD_JOIN2(a, b) a##b
#define HAD_JOIN(a, b) HAD_JOIN2(a, b)
#ifdef HAD_VARIANT
#define HAD_SYMBOL(name) HAD_JOIN(had_##name##_, HAD_VARIANT)
#else
#define HAD_SYMBOL(name) had_##name
#endif
#if !HAD_GPU
#define HAD_EXPORT extern "C" __attribute__((visibility("default")))
#endif

// Gradients that neurons share are added up in this type: in order on a CPU, atomically on a GPU.
#if HAD_GPU
typedef float had_sum;
#else
typedef double had_sum;
#endif

#if HAD_GPU
#define HAD_LANES 1
typedef float lanes;
typedef had_u32 lanes_u;
#if defined(HAD_SHIM)
#include <string.h>
HAD_INLINE had_u32 had_as_uint(float x) {
  had_u32 u;
  memcpy(&u, &x, 4);
  return u;
}
HAD_INLINE float had_as_float(had_u32 u) {
  float x;
  memcpy(&x, &u, 4);
  return x;
}
#define HAD_LOAD_ONCE(p) (*(p))
#define HAD_STORE_ONCE(p, x) (*(p) = (x))
// Blocks and threads run one after the other in the shim, so a plain addition is atomic.
HAD_INLINE void had_atomic_add(float* address, float value) { *address += value; }
HAD_INLINE void had_atomic_add_together(float* address, float value) { *address += value; }
#else
HAD_INLINE had_u32 had_as_uint(float x) { return __float_as_uint(x); }
HAD_INLINE float had_as_float(had_u32 u) { return __uint_as_float(u); }
// Loads and stores of what nobody reads again soon: they leave the caches to others.
#define HAD_LOAD_ONCE(p) __ldcs(p)
#define HAD_STORE_ONCE(p, x) __stcs(p, x)
HAD_INLINE void had_atomic_add(float* address, float value) { atomicAdd(address, value); }
// For values of which many go to one address: a warp that has a single one adds up first. Additions to one address wait
// for each other, and millions of neurons that share a time constant would wait longer than everything else takes.
HAD_INLINE void had_atomic_add_together(float* address, float value) {
  const unsigned int mask = __activemask();
  const had_u64 mine = (had_u64)address;
  const had_u64 first = __shfl_sync(mask, mine, __ffs((int)mask) - 1);
  if (mask == 0xffffffffu && __all_sync(mask, mine == first)) {
    for (int offset = 16; offset > 0; offset /= 2) value = value + __shfl_down_sync(mask, value, offset);
    if ((threadIdx.x & 31u) == 0) atomicAdd(address, value);
  } else {
    atomicAdd(address, value);
  }
}
#endif
HAD_INLINE had_i64 had_thread_index() { return (had_i64)blockIdx.x * blockDim.x + threadIdx.x; }
HAD_INLINE had_i64 had_thread_count() { return (had_i64)gridDim.x * blockDim.x; }
#else
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif
// Exactly one register: GCC splits wider vectors for arithmetic, but takes them apart lane by lane for `mask ? a : b`.
#if defined(__AVX512F__)
#define HAD_LANES 16
#elif defined(__AVX__)
#define HAD_LANES 8
#else
#define HAD_LANES 4
#endif
typedef float lanes __attribute__((vector_size(4 * HAD_LANES)));
typedef had_u32 lanes_u __attribute__((vector_size(4 * HAD_LANES)));
typedef had_u16 lanes_h __attribute__((vector_size(2 * HAD_LANES)));
HAD_INLINE lanes_u had_as_uint(lanes x) { return (lanes_u)x; }
HAD_INLINE lanes had_as_float(lanes_u u) { return (lanes)u; }
#endif

HAD_INLINE lanes had_splat(float x) { return x - lanes{}; }
HAD_INLINE lanes_u had_splat_u(had_u32 u) { return u - lanes_u{}; }

// e^x of x <= 0 in float32 with plain multiplications and additions, so that every machine returns the same bits. Reduction and
// polynomial are those of Cephes' expf (S. L. Moshier, netlib.org/cephes); error below 1.5 ulp on [-87, 0], exactly 1
// at 0, and 0 below -87 (no subnormal results: they are slow and carry nothing here).
HAD_INLINE lanes had_exp(lanes x) {
  const lanes a = x < had_splat(-87.0f) ? had_splat(-87.0f) : x;
  const lanes z = a * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the low bits now hold the nearest integer
  const lanes n = z - 12582912.0f;
  const lanes r = (a - n * 0.693359375f) - n * -2.12194440e-4f;
  lanes p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const lanes y = p * had_as_float((had_as_uint(z) + 127u) << 23);
  return x < had_splat(-87.0f) ? had_splat(0.0f) : y;
}

// Storage types: what tensors hold in memory. Arithmetic is always float32.
#if defined(HAD_STORAGE_F16)
typedef had_u16 storage;
HAD_INLINE lanes had_widen(lanes_u bits) {
  const lanes_u magnitude = (bits & 0x7fffu) << 13;
  // No float32 subnormal on the way: CuPy compiles with -ftz=true, which would make it 0. 0x38800000 is 2^-14.
  const lanes_u tiny = had_as_uint(had_as_float(magnitude + 0x38800000u) - had_as_float(had_splat_u(0x38800000u)));
  const lanes_u finite = magnitude < had_splat_u(0x00800000u) ? tiny : magnitude + 0x38000000u;
  const lanes_u wide = (bits & 0x7fffu) >= had_splat_u(0x7c00u) ? (magnitude | 0x7f800000u) : finite;
  return had_as_float(wide | ((bits & 0x8000u) << 16));
}
HAD_INLINE lanes_u had_narrow(lanes x) {  // round to nearest even; subnormals, infinities and NaN included
  const lanes_u sign = had_as_uint(x) & 0x80000000u;
  const lanes_u u = had_as_uint(x) ^ sign;
  const lanes_u special = u > had_splat_u(0x7f800000u) ? had_splat_u(0x7e00u) : had_splat_u(0x7c00u);
  const lanes_u tiny = had_as_uint(had_as_float(u) + 0.5f) - 0x3f000000u;
  const lanes_u normal = (u + 0xc8000fffu + ((u >> 13) & 1u)) >> 13;
  const lanes_u body = u >= had_splat_u(0x47800000u) ? special : (u < had_splat_u(0x38800000u) ? tiny : normal);
  return body | (sign >> 16);
}
#elif defined(HAD_STORAGE_BF16)
typedef had_u16 storage;
HAD_INLINE lanes had_widen(lanes_u bits) { return had_as_float(bits << 16); }
HAD_INLINE lanes_u had_narrow(lanes x) {
  const lanes_u u = had_as_uint(x);
  const lanes_u rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return (u & 0x7fffffffu) > had_splat_u(0x7f800000u) ? had_splat_u(0x7fc0u) : rounded;
}
#else
#define HAD_STORAGE_F32 1
typedef float storage;
#endif

#if HAD_GPU
HAD_INLINE lanes had_load_f32(const float* p, int count) { return *p; }
HAD_INLINE void had_store_f32(float* p, lanes x, int count) { *p = x; }
#ifdef HAD_STORAGE_F32
HAD_INLINE lanes had_load(const storage* p, int count) { return *p; }
HAD_INLINE lanes had_load_once(const storage* p) { return HAD_LOAD_ONCE(p); }
HAD_INLINE storage had_stored(lanes x) { return x; }
#else
HAD_INLINE lanes had_load(const storage* p, int count) { return had_widen(*p); }
HAD_INLINE lanes had_load_once(const storage* p) { return had_widen(HAD_LOAD_ONCE(p)); }
HAD_INLINE storage had_stored(lanes x) { return (storage)had_narrow(x); }
#endif
HAD_INLINE void had_store(storage* p, lanes x, int count, int stream) {
  if (stream) {
    HAD_STORE_ONCE(p, had_stored(x));
  } else {
    *p = had_stored(x);
  }
}
#else
// `count` is HAD_LANES except in the last group of a row. `stream` asks for stores that bypass the caches: right for
// outputs larger than the last cache level, possible only for aligned full groups.
HAD_INLINE lanes had_load_f32(const float* p, int count) {
  lanes x = {};
  if (count == HAD_LANES) {
    memcpy(&x, p, sizeof x);
  } else {
    memcpy(&x, p, (size_t)count * sizeof *p);
  }
  return x;
}
HAD_INLINE void had_store_f32(float* p, lanes x, int count) {
  if (count == HAD_LANES) {
    memcpy(p, &x, sizeof x);
  } else {
    memcpy(p, &x, (size_t)count * sizeof *p);
  }
}
HAD_INLINE void had_stream_bytes(void* to, const void* from, const int bytes) {
#if defined(__AVX512F__)
  if (bytes == 64) {
    _mm512_stream_si512((__m512i*)to, _mm512_loadu_si512(from));
    return;
  }
#endif
#if defined(__AVX__)
  if (bytes == 32) {
    _mm256_stream_si256((__m256i*)to, _mm256_loadu_si256((const __m256i*)from));
    return;
  }
#endif
#if defined(__SSE2__)
  if (bytes == 16) {
    _mm_stream_si128((__m128i*)to, _mm_loadu_si128((const __m128i*)from));
    return;
  }
#endif
  memcpy(to, from, (size_t)bytes);
}
HAD_INLINE void had_stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}
#ifdef HAD_STORAGE_F32
HAD_INLINE lanes had_load(const storage* p, int count) { return had_load_f32(p, count); }
HAD_INLINE void had_store(storage* p, lanes x, int count, int stream) {
  if (stream && count == HAD_LANES) {
    had_stream_bytes(p, &x, sizeof x);
  } else {
    had_store_f32(p, x, count);
  }
}
#else
HAD_INLINE lanes had_load(const storage* p, int count) {
  lanes_h bits = {};
  if (count == HAD_LANES) {
    memcpy(&bits, p, sizeof bits);
  } else {
    memcpy(&bits, p, (size_t)count * sizeof *p);
  }
  return had_widen(__builtin_convertvector(bits, lanes_u));
}
HAD_INLINE void had_store(storage* p, lanes x, int count, int stream) {
  const lanes_h bits = __builtin_convertvector(had_narrow(x), lanes_h);
  if (stream && count == HAD_LANES) {
    had_stream_bytes(p, &bits, sizeof bits);
  } else if (count == HAD_LANES) {
    memcpy(p, &bits, sizeof bits);
  } else {
    memcpy(p, &bits, (size_t)count * sizeof *p);
  }
}
#endif
#endif

#endif
