// The frame camera: linear light averaged over each exposure, gain, photon and read-out noise, saturation, gamma 2.2.
#pragma once
#include <vector>

#include "render.hpp"

namespace {

typedef float pixel __attribute__((vector_size(16)));

inline pixel bilinear(const float* p, const float* q, float fu, float fv) {
  pixel a, b, c, d;
  memcpy(&a, p, 16);
  memcpy(&b, p + 4, 16);
  memcpy(&c, q, 16);
  memcpy(&d, q + 4, 16);
  const pixel top = a + fu * (b - a), low = c + fu * (d - c);
  return top + fv * (low - top);
}

void add_exposure(const SensorScene& s, int step, int y, pixel* sum, pixel* row) {
  const double rows = (double)y + 0.5;
  const double* m = s.plane_map + 6 * (size_t)step;
  const float u0 = (float)wrapped(m[0] * 0.5 + m[1] * rows + m[2], s.plane_size, m[0] * s.width);
  const float v0 = (float)wrapped(m[3] * 0.5 + m[4] * rows + m[5], s.plane_size, m[3] * s.width);
  const int pitch = s.plane_size + 1, mask = s.plane_size - 1;
  for (int x = 0; x < s.width; ++x) {
    const float u = u0 + (float)m[0] * (float)x, v = v0 + (float)m[3] * (float)x;
    const int iu = (int)u, iv = (int)v;
    const float* p = s.plane_rgb + 4 * ((size_t)(iv & mask) * pitch + (iu & mask));
    row[x] = bilinear(p, p + 4 * pitch, u - (float)iu, v - (float)iv);
  }
  for (int k = 0; k < s.n_sprites; ++k) {
    const size_t at = (size_t)step * s.n_sprites + k;
    const int* r = s.sprite_rect + 4 * at;
    const double* n = s.sprite_map + 6 * at;
    const int h = s.sprite_size[2 * k], w = s.sprite_size[2 * k + 1];
    if (y < r[1] || y >= r[3] || r[0] >= r[2]) continue;
    int x0 = r[0], x1 = r[2];
    const double us = n[0] * 0.5 + n[1] * rows + n[2], vs = n[3] * 0.5 + n[4] * rows + n[5];
    narrow(us, n[0], w - 1, x0, x1);
    narrow(vs, n[3], h - 1, x0, x1);
    for (int x = x0; x < x1; ++x) {
      const float u = (float)us + (float)n[0] * (float)x, v = (float)vs + (float)n[3] * (float)x;
      const int iu = (int)u > w - 2 ? w - 2 : (int)u, iv = (int)v > h - 2 ? h - 2 : (int)v;
      const float* p = s.sprite_rgb[k] + 4 * ((size_t)iv * w + iu);
      const pixel c = bilinear(p, p + 4 * w, u - (float)iu, v - (float)iv);
      row[x] = s.sprite_mode[k] ? row[x] * (1.0f + c[3] * (c - 1.0f)) : row[x] + c[3] * (c - row[x]);
    }
  }
  const float light = exp_plain(s.light_log[step]) / (float)s.n_sub;
  for (int x = 0; x < s.width; ++x) sum[x] = sum[x] + row[x] * light;
}

const int kCurve = 4096;

void expose(const SensorScene& s, int frame, const std::vector<had_u8>& curve) {
  std::vector<pixel> sum(s.width), row(s.width);
  const float gain = s.frame_gain[frame], shot = s.full_well > 0 ? (float)(1.0 / s.full_well) : 0.0f;
  const float read = (float)(s.read_noise * s.read_noise);
  for (int y = 0; y < s.height; ++y) {
    for (auto& v : sum) v = pixel{};
    for (int j = 0; j < s.n_sub; ++j)
      add_exposure(s, s.frame_steps[(size_t)frame * s.n_sub + j], y, sum.data(), row.data());
    had_u8* out = s.frames + ((size_t)frame * s.height + y) * s.width * 3;
    for (int x = 0; x < s.width; ++x)
      for (int c = 0; c < 3; ++c) {
        float v = sum[x][c] * gain;
        v = v > 4.0f ? 4.0f : v;
        const had_u64 place = ((had_u64)y * s.width + x) * 3 + c + 1;
        const float variance = v * shot + read;
        if (variance > 0 && v < 1.5f) v += __builtin_sqrtf(variance) * grain(hash(~s.seed, place, frame + 1));
        v = v < 0.0f ? 0.0f : (v > 1.0f ? 1.0f : v);
        out[3 * x + c] = curve[(int)(v * (kCurve - 1) + 0.5f)];
      }
  }
}

std::vector<had_u8> display_curve() {
  std::vector<had_u8> curve(kCurve);
  for (int i = 1; i < kCurve; ++i)
    curve[i] = (had_u8)(255.0f * exp_plain(log_plain((float)i / (kCurve - 1)) / 2.2f) + 0.5f);
  return curve;
}

}  // namespace
