// Event-driven LIF over packed raw events, forward and backward.
//
//   at an event at time t:   h = v * decay(t - t_last) + gain * W[c, tap];  fire and reset;  t_last = t
//
//   decay(age) = exp(-(age - age % F) * fall) * exp(-(age % F) * fall) = exp(-age * fall),   fall = rate * scale
//
// rate = 1 / tau in network time, `scale` network microseconds pass in a microsecond of the sample, and F is the power of
// two that is more than 64 and at most 128 us of network time: times that are scaled by a power of two, with a scale that
// is divided by it, are split at the same places into the same factors. On a CPU the factors come from small tables, as the
// exponential would take most of the time; they are rounded one by one on every machine, so that all get the same bits.
//
// A site is an output position (b, oy, ox). Sites are independent and the events of a site are
// sequential, so events are first bucketed by site (stable counting sort): `start` [sites + 1] and
//
//   entry = (t - t_begin) << 16 | tap,   tap = (p * k + dy) * k + dx
//
// Times are integers until the one subtraction (t - t_last), and nothing is decayed at a window's end, so a stream cut
// into windows anywhere gives the same bits. Micro-step s of a window of W us ends remaining[s] = (T - 1 - s) * W / T us
// before the window, which need not be a whole number; bound[s + 1] us after t_begin is the first time of the next one.
//
// Memory order: weight [taps, C], state v [sites, C], counts and membranes [T, sites, C]: channels lie in lanes. A site
// without events is never visited, except to write its membranes where it carries a potential in.
#include "surrogate.cuh"

#define HAD_TAP_BITS 16
// What both directions are given: events in buckets, weights, and the state that the window begins with.
struct Window {
  const had_u64* entries;
  const had_i64* start;
  const had_i64* bound;  // [B, T + 1] us after t_begin
  const float *weight, *rate, *gain, *threshold, *v0;
  const had_i64* t_last0;  // [sites] us after t_begin (so at most 0), or null for rest
  const float* scale;       // [B]
  const double* remaining;  // [B, T]
  had_i64 sites, sites_per_sample, T, C;
  Neuron neuron;
  int threads;  // CPU only
};

struct EventForward {
  Window window;
  float *counts, *membranes, *v;
  had_i64* t_last;
};

// g_weight [rows, taps, C], g_rate and g_threshold [rows, C], zeroed by the caller, who also adds the rows up: HAD_TASKS of
// them on a CPU; on a GPU any number, which spreads the atomic additions. g_gain has as many rows [B] on a CPU, one on a
// GPU. `potentials` [entries, C] is a GPU's scratch: h of every event, written by the first sweep and read by the second.
struct EventBackward {
  Window window;
  const float *g_counts, *g_membranes, *g_v;
  float* potentials;
  had_sum *g_weight, *g_rate, *g_gain, *g_threshold;
  float* g_v0;
  had_i64 taps, rows;
};

// log2 of F.
HAD_INLINE int fine_bits(float scale) {
  int bits = 7;
  while (bits > 0 && scale * (float)(1ll << bits) > 128.0f) --bits;
  while (bits < 40 && scale * (float)(2ll << bits) <= 128.0f) ++bits;
  return bits;
}

// The two factors, with `fall` negated.
HAD_INLINE lanes coarse_decay(had_i64 row, int bits, lanes fall) { return had_exp((float)(row << bits) * fall); }
HAD_INLINE lanes fine_decay(had_i64 rest, lanes fall) { return had_exp((float)rest * fall); }

// Decay over an age that need not be whole: up to the end of a micro-step.
HAD_INLINE lanes decay_until(double age, int bits, lanes fall) {
  const had_i64 row = (had_i64)age >> bits;
  return coarse_decay(row, bits, fall) * had_exp((float)(age - (double)(row << bits)) * fall);
}

HAD_INLINE had_i64 entry_time(had_u64 entry) { return (had_i64)(entry >> HAD_TAP_BITS); }
HAD_INLINE had_i64 entry_tap(had_u64 entry) { return (had_i64)(entry & ((1u << HAD_TAP_BITS) - 1)); }

#if HAD_GPU

HAD_INLINE float decay_of(had_i64 age, int bits, float fall) {
  return coarse_decay(age >> bits, bits, fall) * fine_decay(age & ((1ll << bits) - 1), fall);
}

// One thread per (site, channel), channels fastest, so that a warp reads one entry and consecutive weights.
HAD_KERNEL HAD_SYMBOL(event_lif_forward)(const EventForward p) {
  const Window& w = p.window;
  const Neuron k = w.neuron;
  const had_i64 sites = w.sites, T = w.T, C = w.C;
  for (had_i64 i = had_thread_index(); i < sites * C; i += had_thread_count()) {
    const had_i64 site = i / C, c = i % C, b = site / w.sites_per_sample;
    const had_i64* ends = w.bound + b * (T + 1) + 1;
    const double* remaining = w.remaining + b * T;
    const float th = w.threshold[c], fall = -(w.rate[c] * w.scale[b]), g = w.gain ? w.gain[b] : 1.0f;
    const int bits = fine_bits(w.scale[b]);
    float u = w.v0 ? w.v0[i] : 0.0f, fired = 0.0f;
    had_i64 last = w.t_last0 ? w.t_last0[site] : 0, step = 0;
    for (had_i64 e = w.start[site]; e < w.start[site + 1]; ++e) {
      const had_i64 now = entry_time(w.entries[e]);
      while (now >= ends[step]) {
        p.counts[step * sites * C + i] = fired;
        if (p.membranes)
          p.membranes[step * sites * C + i] = u * decay_until((double)(ends[T - 1] - last) - remaining[step], bits, fall);
        fired = 0.0f;
        ++step;
      }
      const float h = had_charge(u, decay_of(now - last, bits, fall), g * w.weight[entry_tap(w.entries[e]) * C + c]);
      const float s = had_fire(h, th);
      u = had_reset(k, h, s, th);
      fired = fired + s;
      last = now;
    }
    for (; step < T; ++step) {
      p.counts[step * sites * C + i] = fired;
      if (p.membranes)
          p.membranes[step * sites * C + i] = u * decay_until((double)(ends[T - 1] - last) - remaining[step], bits, fall);
      fired = 0.0f;
    }
    p.v[i] = u;
    if (c == 0) p.t_last[site] = last;
  }
}

HAD_KERNEL HAD_SYMBOL(event_lif_backward)(const EventBackward p) {
  const Window& w = p.window;
  const Neuron k = w.neuron;
  const had_i64 sites = w.sites, T = w.T, C = w.C;
  for (had_i64 i = had_thread_index(); i < sites * C; i += had_thread_count()) {
    const had_i64 site = i / C, c = i % C, b = site / w.sites_per_sample;
    const had_i64 *ends = w.bound + b * (T + 1) + 1, first = w.start[site], stop = w.start[site + 1];
    const had_i64 rest = w.t_last0 ? w.t_last0[site] : 0;
    const double* remaining = w.remaining + b * T;
    const float th = w.threshold[c], fall = -(w.rate[c] * w.scale[b]), g = w.gain ? w.gain[b] : 1.0f;
    const float begin = w.v0 ? w.v0[i] : 0.0f;
    const int bits = fine_bits(w.scale[b]);
    if (first == stop && !p.g_membranes) {  // a site without events: most are
      if (p.g_v0) p.g_v0[i] = p.g_v ? p.g_v[i] : 0.0f;
      continue;
    }
    const had_i64 row = blockIdx.x % p.rows;
    float* g_w = p.g_weight + row * p.taps * C + c;
    float u = begin;
    had_i64 last = rest;
    for (had_i64 e = first; e < stop; ++e) {
      const had_i64 now = entry_time(w.entries[e]);
      const float h = had_charge(u, decay_of(now - last, bits, fall), g * w.weight[entry_tap(w.entries[e]) * C + c]);
      p.potentials[e * C + c] = h;
      u = had_reset(k, h, had_fire(h, th), th);
      last = now;
    }
    float carry = p.g_v ? p.g_v[i] : 0.0f, to_rate = 0.0f, to_gain = 0.0f, to_threshold = 0.0f;
    had_i64 step = T - 1;
    for (had_i64 e = stop; e >= first; --e) {
      // Here u and last are the state after event e - 1; membranes that end before event e and after event e - 1:
      const had_i64 previous = e > first ? entry_time(w.entries[e - 1]) : 0;
      for (; step >= 0 && (e == first || ends[step] > previous); --step) {
        if (!p.g_membranes) continue;
        const double until = (double)(ends[T - 1] - last) - remaining[step];
        const float age = (float)until, d = decay_until(until, bits, fall);
        const float gm = p.g_membranes[step * sites * C + i];
        carry = carry + gm * d;
        to_rate = to_rate - gm * u * d * age;
      }
      if (e == first) break;
      const had_i64 earlier = e - 1 > first ? entry_time(w.entries[e - 2]) : rest;
      const had_i64 tap = entry_tap(w.entries[e - 1]);
      float before = begin;
      if (e - 1 > first) {
        const float h1 = p.potentials[(e - 2) * C + c];
        before = had_reset(k, h1, had_fire(h1, th), th);
      }
      const float gs = p.g_counts ? p.g_counts[(step + 1) * sites * C + i] : 0.0f;
      const float grad =
          had_step_backward(k, p.potentials[(e - 1) * C + c], th, gs, 0.0f, carry, &to_threshold);
      const float age = (float)(previous - earlier), d = decay_of(previous - earlier, bits, fall);
      had_atomic_add(g_w + tap * C, g * grad);
      to_gain = to_gain + grad * w.weight[tap * C + c];
      to_rate = to_rate - grad * before * d * age;
      carry = grad * d;
      u = before;
      last = earlier;
    }
    if (p.g_v0) p.g_v0[i] = carry;
    had_atomic_add(p.g_rate + row * C + c, to_rate * w.scale[b]);
    had_atomic_add(p.g_threshold + row * C + c, to_threshold);
    if (p.g_gain) had_atomic_add_together(p.g_gain + b, to_gain);
  }
}

#else

#include "event_lif_host.cuh"

#endif
