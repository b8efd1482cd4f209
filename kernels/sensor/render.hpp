// Rendering for the event pixels: rows of log-intensity from the background and the sprites in front of it.
#pragma once
#include <vector>

#include "numbers.hpp"
#include "scene.hpp"

namespace {

const int kPad = 16;  // rows are as long as a multiple of this: flags are looked at eight at a time

double wrapped(double value, double size, double travel) {
  value -= size * __builtin_floor(value / size);
  if (travel < 0) value += size * __builtin_ceil(-travel / size);
  return value;
}

// One row of the background. Texel positions stay positive, so that truncation is floor.
HAD_INLINE void plane_row_body(const float* plane, int size, const double* map, int y, int width,
                              float* __restrict out) {
  const double rows = (double)y + 0.5;
  const float u0 = (float)wrapped(map[0] * 0.5 + map[1] * rows + map[2], size, map[0] * width);
  const float v0 = (float)wrapped(map[3] * 0.5 + map[4] * rows + map[5], size, map[3] * width);
  const float du = (float)map[0], dv = (float)map[3];
  const int pitch = size + 1, mask = size - 1;
  for (int x = 0; x < width; ++x) {
    const float u = u0 + du * (float)x, v = v0 + dv * (float)x;
    const int iu = (int)u, iv = (int)v;
    const float fu = u - (float)iu, fv = v - (float)iv;
    const int at = (iv & mask) * pitch + (iu & mask);
    const float a = plane[at], b = plane[at + 1], c = plane[at + pitch], d = plane[at + pitch + 1];
    const float top = a + fu * (b - a), low = c + fu * (d - c);
    out[x] = top + fv * (low - top);
  }
}
HAD_WIDE(void, plane_row, (const float* plane, int size, const double* map, int y, int width, float* out),
         (plane, size, map, y, width, out))

// The span of columns for which `start + x * slope` stays in [0, limit), by narrowing [x0, x1).
void narrow(double start, double slope, double limit, int& x0, int& x1) {
  while (x0 < x1 && !(start + slope * x0 >= 0 && start + slope * x0 < limit)) ++x0;
  while (x1 > x0 && !(start + slope * (x1 - 1) >= 0 && start + slope * (x1 - 1) < limit)) --x1;
}

void sprite_row(const float* texture, int h, int w, int mode, const double* map, int y, int x0, int x1, float* out) {
  const double rows = (double)y + 0.5;
  const double u0 = map[0] * 0.5 + map[1] * rows + map[2], v0 = map[3] * 0.5 + map[4] * rows + map[5];
  narrow(u0, map[0], w - 1, x0, x1);
  narrow(v0, map[3], h - 1, x0, x1);
  const float us = (float)u0, vs = (float)v0, du = (float)map[0], dv = (float)map[3];
  const int max_u = w - 2, max_v = h - 2;
  for (int x = x0; x < x1; ++x) {
    const float u = us + du * (float)x, v = vs + dv * (float)x;
    int iu = (int)u, iv = (int)v;
    iu = iu > max_u ? max_u : iu;  // rounding to float may step over the edge by one bit
    iv = iv > max_v ? max_v : iv;
    const float fu = u - (float)iu, fv = v - (float)iv;
    const float* p = texture + 2 * (iv * w + iu);
    const float* q = p + 2 * w;
    const float top_l = p[0] + fu * (p[2] - p[0]), low_l = q[0] + fu * (q[2] - q[0]);
    const float top_a = p[1] + fu * (p[3] - p[1]), low_a = q[1] + fu * (q[3] - q[1]);
    const float value = top_l + fv * (low_l - top_l), alpha = top_a + fv * (low_a - top_a);
    out[x] = mode ? out[x] + alpha * value : out[x] + alpha * (value - out[x]);
  }
}

// The log-intensity of a band of rows, step after step; what did not move is not rendered again.
struct Image {
  const SensorScene& s;
  const int y0, y1, pitch;
  std::vector<float> plane, rows;  // [y1 - y0, pitch] the background alone, and with sprites in front

  Image(const SensorScene& scene, int from, int to)
      : s(scene), y0(from), y1(to), pitch((scene.width + kPad - 1) / kPad * kPad) {
    plane.assign((size_t)(y1 - y0) * pitch, 0.0f);
    rows.assign((size_t)(y1 - y0) * pitch, 0.0f);
  }

  bool same_plane(int step) const { return !memcmp(s.plane_map + 6 * step, s.plane_map + 6 * (step - 1), 48); }
  bool same_sprites(int step) const {
    const size_t row = (size_t)6 * s.n_sprites;
    return !row || !memcmp(s.sprite_map + row * step, s.sprite_map + row * (step - 1), row * sizeof(double));
  }

  void render(int step) {
    const bool keep_plane = step > 0 && same_plane(step);
    if (keep_plane && same_sprites(step)) return;
    for (int y = y0; y < y1; ++y) {
      float* back = &plane[(size_t)(y - y0) * pitch];
      float* row = &rows[(size_t)(y - y0) * pitch];
      if (!keep_plane) plane_row(s.plane_log, s.plane_size, s.plane_map + 6 * step, y, s.width, back);
      memcpy(row, back, (size_t)s.width * sizeof(float));
      for (int k = 0; k < s.n_sprites; ++k) {
        const size_t at = (size_t)step * s.n_sprites + k;
        const int* r = s.sprite_rect + 4 * at;
        if (y < r[1] || y >= r[3] || r[0] >= r[2]) continue;
        sprite_row(s.sprite_log[k], s.sprite_size[2 * k], s.sprite_size[2 * k + 1], s.sprite_mode[k],
                   s.sprite_map + 6 * at, y, r[0], r[2], row);
      }
    }
  }
};
}  // namespace
