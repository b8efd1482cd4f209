// The event pixel: low-pass, thresholds, refractory time, leak, noise, and the microsecond at which each event happens.
//
// Every pixel low-pass filters its log-intensity, compares it with the level it last reported and fires when the difference
// passes its threshold; between two render steps the level is a straight line, so that crossing times are not bound to
// the steps. The model follows ESIM (Rebecq et al., CoRL 2018) for the interpolated crossings and v2e (Hu et al.,
// CVPRW 2021) for bandwidth, leak and shot noise.
#pragma once
#include <vector>

#include "render.hpp"

namespace {

const int kNever = 0x7fffffff;

// One event; `t` in microseconds from the start of the scene.
struct Event {
  int t;
  had_u16 x, y;
  had_u8 p;
};

// Moves the levels of one row by one step towards the light (implicit Euler) and marks the pixels that have to fire.
HAD_INLINE void follow_body(int count, const float* __restrict image, float light, float pace, float half, float leak,
                            int t1, const float* __restrict high, const float* __restrict low,
                            const int* __restrict next_noise, float* __restrict level, float* __restrict before,
                            had_u8* __restrict hit) {
  for (int i = 0; i < count; ++i) {
    const float target = image[i] + light, old = level[i];
    const float bright = exp_plain(target), drive = bright * pace;
    const float now = old + (target - old) * (drive / (bright + half + drive));
    const float z = now + leak;
    before[i] = old;
    level[i] = now;
    hit[i] = (had_u8)((z > high[i]) | (z < low[i]) | (next_noise[i] < t1));
  }
}
HAD_WIDE(void, follow,
         (int count, const float* image, float light, float pace, float half, float leak, int t1, const float* high,
          const float* low, const int* next_noise, float* level, float* before, had_u8* hit),
         (count, image, light, pace, half, leak, t1, high, low, next_noise, level, before, hit))

// A band of rows: all state of its pixels, and its events in order of steps.
struct Band {
  const SensorScene& s;
  Image image;
  const int y0, y1, pitch;
  std::vector<float> level, high, low, on, off, before;
  std::vector<had_u8> hit;
  std::vector<int> next_noise, blocked;
  std::vector<had_u32> draws;
  std::vector<Event> events;
  std::vector<size_t> ends;  // events up to each step

  Band(const SensorScene& scene, int from, int to)
      : s(scene), image(scene, from, to), y0(from), y1(to), pitch(image.pitch) {
    const size_t n = (size_t)(y1 - y0) * pitch;
    for (auto* v : {&level, &high, &low, &on, &off}) v->assign(n, 0.0f);
    next_noise.assign(n, kNever);
    blocked.assign(n, -1);
    draws.assign(n, 0);
    before.assign(pitch, 0.0f);
    hit.assign(pitch, 0);
    ends.reserve(s.n_steps);
  }

  had_u64 draw(size_t i, int x, int y) { return hash(s.seed, (had_u64)y * s.width + x + 1, ++draws[i]); }

  int noise_after(size_t i, int x, int y, double t) {
    const bool hot = uniform(hash(s.seed ^ 0x5851f42d4c957f2dull, (had_u64)y * s.width + x + 1, 0)) < s.hot_share;
    const double dark = s.shot_hz / (1.0 + (double)exp_plain(level[i]) / s.shot_level);
    const double rate = hot ? s.hot_hz : dark;
    if (!(rate > 0)) return kNever;
    const double wait = -(double)log_plain(uniform(draw(i, x, y))) * 1e6 / rate;
    return t + wait < 2.0e9 ? (int)(t + wait) : kNever;
  }

  void set_reference(size_t i, int x, int y, float z) {
    const had_u64 a = draw(i, x, y), b = draw(i, x, y);
    const float scale = 1.0f + (float)s.jitter * normal(a, b);
    high[i] = z + on[i] * scale;
    low[i] = z - off[i] * scale;
  }

  void start() {
    image.render(0);
    for (int y = y0; y < y1; ++y)
      for (int x = 0; x < s.width; ++x) {
        const size_t i = (size_t)(y - y0) * pitch + x;
        level[i] = image.rows[i] + s.light_log[0];
        const float spread = 1.0f + (float)s.mismatch * normal(draw(i, x, y), draw(i, x, y));
        const float tilt = 1.0f + 0.3f * (float)s.mismatch * normal(draw(i, x, y), draw(i, x, y));
        const float factor = spread < 0.3f ? 0.3f : spread;
        on[i] = (float)s.theta_on * factor * tilt;
        off[i] = (float)s.theta_off * factor / tilt;
        // A sensor that has been running stands anywhere between its two thresholds.
        set_reference(i, x, y, level[i]);
        const float shift = uniform(draw(i, x, y));
        const float room = high[i] - low[i];
        low[i] = level[i] - room * (0.05f + 0.9f * shift);
        high[i] = low[i] + room;
        next_noise[i] = noise_after(i, x, y, 0.0);
      }
    for (size_t i = 0; i < level.size(); ++i)
      if ((int)(i % pitch) >= s.width) {
        high[i] = 1e30f;
        low[i] = -1e30f;
      }
  }

  // Events of one pixel in one step, during which its level moves from z0 to z1 in a straight line.
  void fire(size_t i, int x, int y, int t0, float z0, float z1) {
    const double dt = s.step_us, t1 = t0 + dt, rise = (double)z1 - (double)z0;
    double now = t0;
    for (;;) {
      if (blocked[i] >= 0) {  // held in reset: the reference is taken when the refractory time ends
        if (blocked[i] >= t1) {
          high[i] = -1e30f;  // makes the next step come back here
          low[i] = 1e30f;
          return;
        }
        if (blocked[i] > now) now = blocked[i];
        blocked[i] = -1;
        set_reference(i, x, y, (float)((double)z0 + rise * ((now - t0) / dt)));
      }
      while (next_noise[i] < now) next_noise[i] = noise_after(i, x, y, now);
      double at = t1;
      int polarity = -1;
      if (z1 > high[i] || z1 < low[i]) {
        polarity = z1 > high[i];
        at = t0 + dt * (((double)(polarity ? high[i] : low[i]) - (double)z0) / rise);
        at = at < now ? now : at;
      }
      if (next_noise[i] < t1 && next_noise[i] < at) {
        at = next_noise[i];
        polarity = (draw(i, x, y) >> 63) ? 1 : 0;
        next_noise[i] = noise_after(i, x, y, at + s.refractory_us);
      }
      if (polarity < 0 || at >= t1) return;
      events.push_back({(int)at, (had_u16)x, (had_u16)y, (had_u8)polarity});
      const double free_at = at + s.refractory_us;
      blocked[i] = (int)free_at + 1;
    }
  }

  // Everything that happens between render steps `index - 1` and `index`.
  void step(int index) {
    image.render(index);
    const int t0 = (index - 1) * s.step_us, t1 = t0 + s.step_us;
    const float pace = (float)(6.283185307 * s.cutoff_hz * 1e-6 * s.step_us);
    const float leak0 = (float)(s.leak_per_s * 1e-6 * t0), leak1 = (float)(s.leak_per_s * 1e-6 * t1);
    for (int y = y0; y < y1; ++y) {
      const size_t i = (size_t)(y - y0) * pitch;
      follow(pitch, &image.rows[i], s.light_log[index], pace, (float)s.cutoff_level, leak1, t1, &high[i], &low[i],
             &next_noise[i], &level[i], before.data(), hit.data());
      for (int x = 0; x < s.width; x += 8) {
        had_u64 any;
        memcpy(&any, &hit[x], 8);
        if (!any) continue;
        for (int k = x; k < x + 8; ++k)
          if (hit[k]) fire(i + k, k, y, t0, before[k] + leak0, level[i + k] + leak1);
      }
    }
    ends.push_back(events.size());
  }
};

}  // namespace
