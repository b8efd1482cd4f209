// Moves events into a square crop and drops those outside it (host only): one pass, no branch for each event.
#include "prelude.cuh"

#define HAD_OUTSIDE 0xffffu

// `columns` [width] and `rows` [height] give the crop pixel of each sensor pixel, or HAD_OUTSIDE. The outputs hold n events,
// of which the first ones are written. Returns their number, or -1 - i where event i lies outside the sensor.
HAD_EXPORT had_i64 HAD_SYMBOL(event_crop)(const had_i64* t, const had_u16* x, const had_u16* y, const had_u8* p,
                                          had_i64 n, const had_u16* columns, const had_u16* rows, had_i64 width,
                                          had_i64 height, had_i64* t_out, had_u16* x_out, had_u16* y_out,
                                          had_u8* p_out) {
  had_i64 kept = 0;
  for (had_i64 i = 0; i < n; ++i) {
    if (__builtin_expect((x[i] >= width) | (y[i] >= height), 0)) return -1 - i;
    const had_u16 column = columns[x[i]], row = rows[y[i]];
    t_out[kept] = t[i];
    x_out[kept] = column;
    y_out[kept] = row;
    p_out[kept] = p[i];
    kept += (column != HAD_OUTSIDE) & (row != HAD_OUTSIDE);
  }
  return kept;
}
