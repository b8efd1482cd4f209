// Moves events into a square crop and drops those outside it (host only).
#include "../neuron/prelude.cuh"

#define HAD_BLOCK 4096

// n events of a sensor. Sensor columns left .. left + width - 1 lie in the crop, at crop pixels `columns`; rows likewise.
struct EventCrop {
  const had_i64* t;
  const had_u16 *x, *y;
  const had_u8* p;
  const had_u16 *columns, *rows;
  had_i64* t_out;
  had_u16 *x_out, *y_out;
  had_u8* p_out;
  had_i64 n, left, width, top, height;
};

// How many events lie in the crop; reads nothing but their pixels.
HAD_EXPORT had_i64 HAD_SYMBOL(event_count)(const EventCrop* given) {
  const had_u16 *x = given->x, *y = given->y, x0 = (had_u16)given->left, y0 = (had_u16)given->top;
  const had_u16 w = (had_u16)given->width, h = (had_u16)given->height;
  const had_i64 n = given->n;
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

// Most events of a large sensor lie elsewhere, so a first pass over a block, in vectors, only asks which lie inside, and
// eight that do not cost one comparison after that. The outputs hold as many events as had_event_count finds; returns their
// number.
HAD_EXPORT had_i64 HAD_SYMBOL(event_crop)(const EventCrop* given) {
  const EventCrop c = *given;
  had_u8 inside[HAD_BLOCK + 8];
  const had_u16 x0 = (had_u16)c.left, y0 = (had_u16)c.top, w = (had_u16)c.width, h = (had_u16)c.height;
  had_i64 kept = 0;
  for (had_i64 from = 0; from < c.n; from += HAD_BLOCK) {
    const int count = (int)(c.n - from < HAD_BLOCK ? c.n - from : HAD_BLOCK);
    const had_u16 *bx = c.x + from, *by = c.y + from;
    // Below `left` the difference wraps around to large numbers, so one comparison tests both ends.
    for (int i = 0; i < count; ++i) inside[i] = ((had_u16)(bx[i] - x0) < w) & ((had_u16)(by[i] - y0) < h);
    memset(inside + count, 0, 8);
    for (int i = 0; i < count; i += 8) {
      had_u64 eight;
      memcpy(&eight, inside + i, 8);
      for (; eight; eight &= eight - 1) {
        const had_i64 e = from + i + (__builtin_ctzll(eight) >> 3);
        c.t_out[kept] = c.t[e];
        c.x_out[kept] = c.columns[c.x[e] - c.left];
        c.y_out[kept] = c.rows[c.y[e] - c.top];
        c.p_out[kept++] = c.p[e];
      }
    }
  }
  return kept;
}
