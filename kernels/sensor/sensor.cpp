// The event sensor and its frame camera: a moving scene in, events sorted by time and frames out.
//
// Host only. Bands of rows are independent of each other and random numbers are hashes of (seed, pixel, count), so that
// results do not depend on the number of threads. What is rendered: render.hpp; what a pixel makes of it:
// pixel.hpp; frames: frames.hpp.
#include <cstdlib>
#include <new>
#include <vector>

#include "frames.hpp"
#include "pixel.hpp"
#include "scene.hpp"

namespace {

struct Result {
  std::vector<had_i64> t;
  std::vector<had_u16> x, y;
  std::vector<had_u8> p;
};

// Joins the bands' events into one stream sorted by time; equal times keep the order of rows.
void merge(const SensorScene& s, const std::vector<Band*>& bands, Result& out) {
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

int simulate(const SensorScene& s, Result& out) {
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

// Runs a scene. Returns 0, 1 (out of memory) or 2 (more than max_events); on 0, `found` has the events and the frames are
// written.
HAD_EXPORT had_i64 HAD_SYMBOL(sensor_run)(const SensorScene* scene, SensorEvents* found) {
  Result* out = new (std::nothrow) Result;
  if (!out) return 1;
  const int code = simulate(*scene, *out);
  if (code) {
    delete out;
    return code;
  }
  found->owner = out;
  found->count = (had_i64)out->t.size();
  return 0;
}

HAD_EXPORT void HAD_SYMBOL(sensor_copy)(const SensorEvents* to) {
  const Result& r = *(const Result*)to->owner;
  if (r.t.empty()) return;
  memcpy(to->t, r.t.data(), r.t.size() * sizeof *to->t);
  memcpy(to->x, r.x.data(), r.x.size() * sizeof *to->x);
  memcpy(to->y, r.y.data(), r.y.size() * sizeof *to->y);
  memcpy(to->p, r.p.data(), r.p.size());
}

HAD_EXPORT void HAD_SYMBOL(sensor_free)(SensorEvents* events) { delete (Result*)events->owner; }
