// Columns of events: taking them out of packed records, and looking through them (host only).
#include "../neuron/prelude.cuh"

// Every `stride`-th item of `size` bytes; fields of packed records lie at any address.
struct Gather {
  const had_u8* source;
  void* target;
  had_i64 stride, count;
  int size;
};

// What the checks need to know of n > 0 events: 1 if a time is below the one before it, lowest and highest values.
struct Scan {
  const had_i64* t;
  const had_u16 *x, *y;
  const signed char* p;
  had_i64 n, backward, x_low, x_high, y_low, y_high, p_low, p_high;
};

namespace {

template <typename T>
void gather(const had_u8* source, had_i64 stride, had_i64 count, void* target) {
  T* out = (T*)target;
  for (had_i64 i = 0; i < count; ++i) memcpy(out + i, source + stride * i, sizeof(T));
}

}  // namespace

// 1: no such size.
HAD_EXPORT had_i64 had_gather(const Gather* g) {
  if (g->size == 1) gather<had_u8>(g->source, g->stride, g->count, g->target);
  else if (g->size == 2) gather<had_u16>(g->source, g->stride, g->count, g->target);
  else if (g->size == 4) gather<had_u32>(g->source, g->stride, g->count, g->target);
  else if (g->size == 8) gather<had_u64>(g->source, g->stride, g->count, g->target);
  else return 1;
  return 0;
}

// The comparison of times is written without one, for the processors' sake that have none for 64 bits.
HAD_EXPORT void had_scan(Scan* s) {
  const had_i64 *t = s->t, n = s->n;
  const had_u16 *x = s->x, *y = s->y;
  const signed char* p = s->p;
  had_u64 back = 0;
  for (had_i64 i = 1; i < n; ++i) {
    const had_u64 a = (had_u64)t[i - 1], b = (had_u64)t[i];
    back |= (b & ~a) | (~(a ^ b) & (b - a));  // highest bit: b < a as signed numbers
  }
  // Signed 16-bit and unsigned 8-bit numbers are those that every x86 processor compares sixteen bytes at a time.
  had_i16 x_low = 32767, x_high = -32768, y_low = 32767, y_high = -32768;
  had_u8 p_low = 255, p_high = 0;
  for (had_i64 i = 0; i < n; ++i) {
    const had_i16 a = (had_i16)(x[i] ^ 0x8000), b = (had_i16)(y[i] ^ 0x8000);
    x_low = a < x_low ? a : x_low;
    x_high = a > x_high ? a : x_high;
    y_low = b < y_low ? b : y_low;
    y_high = b > y_high ? b : y_high;
  }
  for (had_i64 i = 0; i < n; ++i) {
    const had_u8 a = (had_u8)p[i] ^ 0x80;
    p_low = a < p_low ? a : p_low;
    p_high = a > p_high ? a : p_high;
  }
  *s = {t, x, y, p, n, (had_i64)(back >> 63), x_low + 32768, x_high + 32768, y_low + 32768, y_high + 32768, p_low - 128,
        p_high - 128};
}
