// Moves events into a square crop and drops those outside it (host only).
#include "../neuron/prelude.cuh"

#define HAD_BLOCK 4096

// Events in columns left .. left + width - 1 and rows top .. top + height - 1.
HAD_EXPORT had_i64 HAD_SYMBOL(event_count)(const had_u16* x, const had_u16* y, had_i64 n, had_i64 left, had_i64 width,
                                           had_i64 top, had_i64 height) {
  const had_u16 x0 = (had_u16)left, y0 = (had_u16)top, w = (had_u16)width, h = (had_u16)height;
  had_i64 total = 0;
  for (had_i64 from = 0; from < n; from += HAD_BLOCK) {
    const int count = (int)(n - from < HAD_BLOCK ? n - from : HAD_BLOCK);
    had_u16 inside = 0;  // a block holds no more than 16 bits count
    for (int i = 0; i < count; ++i)
      inside = (had_u16)(inside + (((had_u16)(x[from + i] - x0) < w) & ((had_u16)(y[from + i] - y0) < h)));
    total += inside;
  }
  return total;
}

// Sensor columns left .. left + width - 1 lie in the crop, at crop pixels `columns`; rows likewise. Most events of a large
// sensor lie elsewhere, so a first pass over a block, in vectors, only asks which lie inside, and eight that do not cost
// one comparison after that. The outputs hold n events, of which the first ones are written. Returns their number.
HAD_EXPORT had_i64 HAD_SYMBOL(event_crop)(const had_i64* t, const had_u16* x, const had_u16* y, const had_u8* p,
                                          had_i64 n, const had_u16* columns, had_i64 left, had_i64 width,
                                          const had_u16* rows, had_i64 top, had_i64 height, had_i64* t_out,
                                          had_u16* x_out, had_u16* y_out, had_u8* p_out) {
  had_u8 inside[HAD_BLOCK + 8];
  const had_u16 x0 = (had_u16)left, y0 = (had_u16)top, w = (had_u16)width, h = (had_u16)height;
  had_i64 kept = 0;
  for (had_i64 from = 0; from < n; from += HAD_BLOCK) {
    const int count = (int)(n - from < HAD_BLOCK ? n - from : HAD_BLOCK);
    const had_u16 *bx = x + from, *by = y + from;
    // Below `left` the difference wraps around to large numbers, so one comparison tests both ends.
    for (int i = 0; i < count; ++i) inside[i] = ((had_u16)(bx[i] - x0) < w) & ((had_u16)(by[i] - y0) < h);
    memset(inside + count, 0, 8);
    for (int i = 0; i < count; i += 8) {
      had_u64 eight;
      memcpy(&eight, inside + i, 8);
      for (; eight; eight &= eight - 1) {
        const had_i64 e = from + i + (__builtin_ctzll(eight) >> 3);
        t_out[kept] = t[e];
        x_out[kept] = columns[x[e] - left];
        y_out[kept] = rows[y[e] - top];
        p_out[kept++] = p[e];
      }
    }
  }
  return kept;
}
