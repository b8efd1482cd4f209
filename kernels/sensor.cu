// The event sensor and its frame camera: a moving scene rendered in log-intensity, and what each pixel makes of it.
//
// Host only. A scene is a textured plane (wrapped around, seen through an affine map) with sprites in front of it. Every
// pixel low-pass filters its log-intensity, compares it with the level it last reported and fires when the difference
// passes its threshold; between two render steps the level is a straight line, so that crossing times are not bound to
// the steps. Random numbers are hashes of (seed, pixel, count), and rows are independent of each other: results do not
// depend on the number of threads. The model follows ESIM (Rebecq et al., CoRL 2018) for the interpolated crossings and
// v2e (Hu et al., CVPRW 2021) for bandwidth, leak and shot noise.
#include "prelude.cuh"

#include <cstdlib>
#include <new>
#include <vector>

// Hot loops are written once as an inlined body, wrapped for several vector widths, and chosen by the processor at run
// time. (GCC's own target_clones takes the copies too late: it leaves these loops scalar.)
#if defined(__x86_64__) && defined(__GNUC__) && !defined(HAD_VARIANT)
#define HAD_512 __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw")))
#define HAD_256 __attribute__((target("avx2")))
#define HAD_WIDE(attributes, name, parameters, arguments)                      \
  HAD_512 attributes name##_512 parameters { name##_body arguments; }          \
  HAD_256 attributes name##_256 parameters { name##_body arguments; }          \
  attributes name##_128 parameters { name##_body arguments; }                  \
  attributes name parameters {                                                 \
    if (vector_bits() == 512) return name##_512 arguments;                     \
    if (vector_bits() == 256) return name##_256 arguments;                     \
    name##_128 arguments;                                                      \
  }
#else
#define HAD_WIDE(attributes, name, parameters, arguments) \
  attributes name parameters { name##_body arguments; }
#endif

extern "C" {
// Mirrored field by field in had_snn/events/simulator.py; `bytes` guards against a mismatch. "Map" is a row of six
// numbers (a, b, c, d, e, f): texel u = a * x + b * y + c, v = d * x + e * y + f for the pixel centred at (x, y).
struct HadSensorScene {
  had_i64 bytes;
  int height, width;
  int n_steps, step_us;           // events lie in [0, n_steps * step_us)
  int n_sprites, n_frames, n_sub;  // n_sub: samples averaged per exposure
  int plane_size;                 // side of the background, a power of two
  int n_threads, band_rows;
  const float* plane_log;         // [S + 1, S + 1]; the last row and column repeat the first
  const float* plane_rgb;         // [S + 1, S + 1, 4] linear intensity, fourth channel unused
  const double* plane_map;        // [n_steps + 1, 6]
  const float* const* sprite_log;  // n_sprites pointers to [h, w, 2]: log-intensity, opacity; opacity 0 on the border
  const float* const* sprite_rgb;  // n_sprites pointers to [h, w, 4]: linear RGB, opacity
  const int* sprite_size;         // [n_sprites, 2] h, w
  const int* sprite_mode;         // [n_sprites] 0: covers what lies behind, 1: adds to its log-intensity (a shadow)
  const double* sprite_map;       // [n_steps + 1, n_sprites, 6]
  const int* sprite_rect;         // [n_steps + 1, n_sprites, 4] x0, y0, x1, y1 of pixels it may touch, on the sensor
  const float* light_log;         // [n_steps + 1] log of the illumination
  double theta_on, theta_off, mismatch, jitter;  // contrast thresholds; relative spreads per pixel and per event
  double leak_per_s;              // drift of the reference, log units a second
  double shot_hz, shot_level;     // noise rate in the dark; intensity at which it has halved
  double hot_share, hot_hz;
  double refractory_us;
  double cutoff_hz, cutoff_level;  // bandwidth in bright light; intensity at which it has halved
  had_u64 seed;
  had_i64 max_events;
  const int* frame_steps;         // [n_frames, n_sub] render steps of each exposure
  const float* frame_gain;        // [n_frames] linear value of intensity 1; full scale is 1
  double full_well, read_noise;   // electrons at full scale; read-out noise as a share of full scale
  had_u8* frames;                 // [n_frames, H, W, 3]
};
}

namespace {

const int kNever = 0x7fffffff;
const int kPad = 16;  // rows are as long as a multiple of this: flags are looked at eight at a time

#if defined(__x86_64__) && defined(__GNUC__)
int vector_bits() {
  static const int bits = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                                  __builtin_cpu_supports("avx512vl")
                              ? 512
                              : (__builtin_cpu_supports("avx2") ? 256 : 128);
  return bits;
}
#endif

inline had_u64 hash(had_u64 seed, had_u64 a, had_u64 b) {  // the finaliser of SplitMix64 (Steele et al., 2014), twice
  had_u64 z = seed + a * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull + b * 0xd1342543de82ef95ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

inline float uniform(had_u64 bits) { return ((float)(bits >> 40) + 0.5f) * (1.0f / 16777216.0f); }

// Nearly normal: sum of eight 16-bit uniforms (Irwin-Hall), limited to 4.9 sigma; a threshold must not turn negative.
inline float normal(had_u64 a, had_u64 b) {
  int sum = 0;
  for (int i = 0; i < 4; ++i) sum += (int)((a >> (16 * i)) & 0xffff) + (int)((b >> (16 * i)) & 0xffff);
  return ((float)sum - 262140.0f) * (1.0f / 53509.3f);
}

// Roughly normal, for image noise: sum of four 16-bit uniforms.
inline float grain(had_u64 a) {
  const int sum = (int)(a & 0xffff) + (int)(a >> 16 & 0xffff) + (int)(a >> 32 & 0xffff) + (int)(a >> 48);
  return ((float)sum - 131070.0f) * (1.0f / 37836.8f);
}

// Cephes' logf (S. L. Moshier) in plain operations; x > 0 and normal.
inline float log_plain(float x) {
  had_u32 u;
  memcpy(&u, &x, 4);
  int e = (int)(u >> 23) - 126;
  u = (u & 0x7fffffu) | 0x3f000000u;
  float m;
  memcpy(&m, &u, 4);
  if (m < 0.707106781f) {
    e -= 1;
    m = m + m;
  }
  m -= 1.0f;
  const float z = m * m;
  float p = 7.0376836292e-2f;
  const float c[8] = {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                      -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f};
  for (int i = 0; i < 8; ++i) p = p * m + c[i];
  return ((p * m * z + (float)e * -2.12194440e-4f) - 0.5f * z) + m + (float)e * 0.693359375f;
}

// The polynomial of had_exp for one float, so that the compiler can vectorise a loop over it; no clamp, |x| < 80.
HAD_INLINE float exp_plain(float x) {
  const float z = x * 1.44269504f + 12582912.0f;
  const float n = z - 12582912.0f;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  had_u32 u;
  memcpy(&u, &z, 4);
  u = (u + 127u) << 23;
  float power;
  memcpy(&power, &u, 4);
  return p * power;
}

struct Event {
  int t;
  had_u16 x, y;
  had_u8 p;
};

struct Result {
  std::vector<had_i64> t;
  std::vector<had_u16> x, y;
  std::vector<had_u8> p;
};

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
  const HadSensorScene& s;
  const int y0, y1, pitch;
  std::vector<float> plane, image, level, high, low, on, off, before;
  std::vector<had_u8> hit;
  std::vector<int> next_noise, blocked;
  std::vector<had_u32> draws;
  std::vector<Event> events;
  std::vector<size_t> ends;  // events up to each step

  Band(const HadSensorScene& scene, int from, int to)
      : s(scene), y0(from), y1(to), pitch((scene.width + kPad - 1) / kPad * kPad) {
    const size_t n = (size_t)(y1 - y0) * pitch;
    for (auto* v : {&plane, &image, &level, &high, &low, &on, &off}) v->assign(n, 0.0f);
    next_noise.assign(n, kNever);
    blocked.assign(n, -1);
    draws.assign(n, 0);
    before.assign(pitch, 0.0f);
    hit.assign(pitch, 0);
    ends.reserve(s.n_steps);
  }

  had_u64 draw(size_t i, int x, int y) { return hash(s.seed, (had_u64)y * s.width + x + 1, ++draws[i]); }

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
      float* row = &image[(size_t)(y - y0) * pitch];
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
    render(0);
    for (int y = y0; y < y1; ++y)
      for (int x = 0; x < s.width; ++x) {
        const size_t i = (size_t)(y - y0) * pitch + x;
        level[i] = image[i] + s.light_log[0];
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

  void step(int index) {
    const int t0 = (index - 1) * s.step_us, t1 = t0 + s.step_us;
    const float pace = (float)(6.283185307 * s.cutoff_hz * 1e-6 * s.step_us);
    const float leak0 = (float)(s.leak_per_s * 1e-6 * t0), leak1 = (float)(s.leak_per_s * 1e-6 * t1);
    for (int y = y0; y < y1; ++y) {
      const size_t i = (size_t)(y - y0) * pitch;
      follow(pitch, &image[i], s.light_log[index], pace, (float)s.cutoff_level, leak1, t1, &high[i], &low[i],
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

// Joins the bands' events into one stream sorted by time; equal times keep the order of rows.
void merge(const HadSensorScene& s, const std::vector<Band*>& bands, Result& out) {
  size_t total = 0;
  for (const Band* b : bands) total += b->events.size();
  out.t.resize(total);
  out.x.resize(total);
  out.y.resize(total);
  out.p.resize(total);
  std::vector<size_t> slot(s.step_us + 1);
  size_t base = 0;
  for (int step = 0; step < s.n_steps; ++step) {
    const int t0 = step * s.step_us;
    slot.assign(s.step_us + 1, 0);
    for (const Band* b : bands)
      for (size_t i = step ? b->ends[step - 1] : 0; i < b->ends[step]; ++i) ++slot[b->events[i].t - t0 + 1];
    for (int k = 0; k < s.step_us; ++k) slot[k + 1] += slot[k];
    for (const Band* b : bands)
      for (size_t i = step ? b->ends[step - 1] : 0; i < b->ends[step]; ++i) {
        const Event& e = b->events[i];
        const size_t at = base + slot[e.t - t0]++;
        out.t[at] = e.t;
        out.x[at] = e.x;
        out.y[at] = e.y;
        out.p[at] = e.p;
      }
    base += slot[s.step_us];
  }
}

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

void add_exposure(const HadSensorScene& s, int step, int y, pixel* sum, pixel* row) {
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

void expose(const HadSensorScene& s, int frame, const std::vector<had_u8>& curve) {
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

int simulate(const HadSensorScene& s, Result& out) {
  const int n_bands = (s.height + s.band_rows - 1) / s.band_rows;
  std::vector<Band*> bands(n_bands, nullptr);
  int failed = 0;
#pragma omp parallel for schedule(dynamic, 1) num_threads(s.n_threads)
  for (int b = 0; b < n_bands; ++b) {
    int stop;
#pragma omp atomic read
    stop = failed;
    if (stop) continue;
    int code = 0;
    try {
      const int from = b * s.band_rows, to = from + s.band_rows < s.height ? from + s.band_rows : s.height;
      bands[b] = new Band(s, from, to);
      bands[b]->start();
      for (int step = 1; step <= s.n_steps && !code; ++step) {
        bands[b]->render(step);
        bands[b]->step(step);
        if ((had_i64)bands[b]->events.size() > s.max_events) code = 2;
      }
    } catch (const std::bad_alloc&) {
      code = 1;
    }
    if (code) {
#pragma omp atomic write
      failed = code;
    }
  }
  had_i64 total = 0;
  for (const Band* b : bands) total += b ? (had_i64)b->events.size() : 0;
  if (!failed && total > s.max_events) failed = 2;
  if (!failed) {
    try {
      merge(s, bands, out);
    } catch (const std::bad_alloc&) {
      failed = 1;
    }
  }
  for (Band* b : bands) delete b;
  if (failed || !s.n_frames) return failed;
  const std::vector<had_u8> curve = display_curve();
#pragma omp parallel for schedule(dynamic, 1) num_threads(s.n_threads)
  for (int f = 0; f < s.n_frames; ++f) expose(s, f, curve);
  return 0;
}

}  // namespace

// Runs a scene. Returns 0, 1 (out of memory), 2 (more than max_events) or 3 (the caller's struct has another layout);
// on 0, `*result` owns the events until had_sensor_free, `*count` is their number, and the frames are written.
HAD_EXPORT int HAD_SYMBOL(sensor_run)(const HadSensorScene* scene, void** result, had_i64* count) {
  *result = nullptr;
  *count = 0;
  if (scene->bytes != (had_i64)sizeof(HadSensorScene)) return 3;
  Result* out = new (std::nothrow) Result;
  if (!out) return 1;
  const int code = simulate(*scene, *out);
  if (code) {
    delete out;
    return code;
  }
  *count = (had_i64)out->t.size();
  *result = out;
  return 0;
}

HAD_EXPORT void HAD_SYMBOL(sensor_copy)(const void* result, had_i64* t, had_u16* x, had_u16* y, had_u8* p) {
  const Result& r = *(const Result*)result;
  if (r.t.empty()) return;
  memcpy(t, r.t.data(), r.t.size() * sizeof *t);
  memcpy(x, r.x.data(), r.x.size() * sizeof *x);
  memcpy(y, r.y.data(), r.y.size() * sizeof *y);
  memcpy(p, r.p.data(), r.p.size());
}

HAD_EXPORT void HAD_SYMBOL(sensor_free)(void* result) { delete (Result*)result; }
