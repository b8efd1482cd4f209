// Event-driven LIF over packed raw events, forward and backward.
//
//   at an event at time t:   h = v * decay(t - t_last) + gain * W[c, tap];  fire and reset;  t_last = t
//
//   decay(age) = exp(-(age - age % 128) * rate) * exp(-(age % 128) * rate) = exp(-age * rate)
//
// The two factors come from small tables on a CPU, where the exponential would take most of the time; they are rounded one
// by one on every machine, so that all get the same bits.
//
// A site is an output position (b, oy, ox); rate = 1 / tau in 1 / us. Sites are independent and the events of a site are
// sequential, so events are first bucketed by site (stable counting sort): `start` [sites + 1] and
//
//   entry = (t - t_begin) << 16 | tap,   tap = (p * k + dy) * k + dx
//
// Times are integers until the one subtraction (t - t_last), and nothing is decayed at a window's end, so a stream cut
// into windows anywhere gives the same bits. Micro-step s of a window of W us ends at bound[s + 1] = ceil((s + 1) * W / T)
// us after t_begin, the first time that belongs to the next one.
//
// Memory order: weight [taps, C], state v [sites, C], counts and membranes [T, sites, C]: channels lie in lanes. A site
// without events is never visited, except to write its membranes where it carries a potential in.
#include "surrogate.cuh"

#define HAD_TAP_BITS 16
#define HAD_FINE_BITS 7
#define HAD_FINE (1 << HAD_FINE_BITS)

// Values that stay the same during one launch.
struct Window {
  const had_u64* entries;
  const had_i64* start;
  const had_i64* bound;  // [B, T + 1] us after t_begin
  const float *weight, *rate, *gain, *threshold, *v0;
  const had_i64* t_last0;  // [sites] us after t_begin (so at most 0), or null for rest
  had_i64 sites, sites_per_sample, T, C;
};

HAD_INLINE lanes coarse_decay(had_i64 row, lanes fall) { return had_exp((float)(row * HAD_FINE) * fall); }
HAD_INLINE lanes fine_decay(had_i64 rest, lanes fall) { return had_exp((float)rest * fall); }

HAD_INLINE had_i64 entry_time(had_u64 entry) { return (had_i64)(entry >> HAD_TAP_BITS); }
HAD_INLINE had_i64 entry_tap(had_u64 entry) { return (had_i64)(entry & ((1u << HAD_TAP_BITS) - 1)); }

#if HAD_GPU

HAD_INLINE float decay_of(had_i64 age, float fall) {
  return coarse_decay(age >> HAD_FINE_BITS, fall) * fine_decay(age & (HAD_FINE - 1), fall);
}

// One thread per (site, channel), channels fastest, so that a warp reads one entry and consecutive weights.
HAD_KERNEL HAD_SYMBOL(event_lif_forward)(const had_u64* entries, const had_i64* start, const had_i64* bound,
                                         const float* weight, const float* rate, const float* gain,
                                         const float* threshold, const float* v0, const had_i64* t_last0,
                                         float* counts, float* membranes, float* v, had_i64* t_last, had_i64 sites,
                                         had_i64 sites_per_sample, had_i64 T, had_i64 C, float v_reset, float slope,
                                         int surrogate, int soft, int detach) {
  const Neuron k = {v_reset, slope, surrogate, soft, detach};
  for (had_i64 i = had_thread_index(); i < sites * C; i += had_thread_count()) {
    const had_i64 site = i / C, c = i % C, b = site / sites_per_sample;
    const had_i64* ends = bound + b * (T + 1) + 1;
    const float th = threshold[c], fall = -rate[c], g = gain ? gain[b] : 1.0f;
    float u = v0 ? v0[i] : 0.0f, fired = 0.0f;
    had_i64 last = t_last0 ? t_last0[site] : 0, step = 0;
    for (had_i64 e = start[site]; e < start[site + 1]; ++e) {
      const had_i64 now = entry_time(entries[e]);
      while (now >= ends[step]) {
        counts[step * sites * C + i] = fired;
        if (membranes) membranes[step * sites * C + i] = u * decay_of(ends[step] - last, fall);
        fired = 0.0f;
        ++step;
      }
      const float h = had_charge(u, decay_of(now - last, fall), g * weight[entry_tap(entries[e]) * C + c]);
      const float s = had_fire(h, th);
      u = had_reset(k, h, s, th);
      fired = fired + s;
      last = now;
    }
    for (; step < T; ++step) {
      counts[step * sites * C + i] = fired;
      if (membranes) membranes[step * sites * C + i] = u * decay_of(ends[step] - last, fall);
      fired = 0.0f;
    }
    v[i] = u;
    if (c == 0) t_last[site] = last;
  }
}

// `potentials` is [entries, C] scratch: h of every event, written by the first sweep and read by the second.
// g_weight [replicas, taps, C], g_rate and g_threshold [replicas, C] spread the atomic additions; the caller adds the
// replicas up.
HAD_KERNEL HAD_SYMBOL(event_lif_backward)(const had_u64* entries, const had_i64* start, const had_i64* bound,
                                          const float* weight, const float* rate, const float* gain,
                                          const float* threshold, const float* v0, const had_i64* t_last0,
                                          const float* g_counts, const float* g_membranes, const float* g_v,
                                          float* potentials, float* g_weight, float* g_rate, float* g_gain,
                                          float* g_threshold, float* g_v0, had_i64 sites, had_i64 sites_per_sample,
                                          had_i64 T, had_i64 C, had_i64 taps, had_i64 replicas, float v_reset,
                                          float slope, int surrogate, int soft, int detach) {
  const Neuron k = {v_reset, slope, surrogate, soft, detach};
  for (had_i64 i = had_thread_index(); i < sites * C; i += had_thread_count()) {
    const had_i64 site = i / C, c = i % C, b = site / sites_per_sample;
    const had_i64 *ends = bound + b * (T + 1) + 1, first = start[site], stop = start[site + 1];
    const had_i64 rest = t_last0 ? t_last0[site] : 0;
    const float th = threshold[c], fall = -rate[c], g = gain ? gain[b] : 1.0f, begin = v0 ? v0[i] : 0.0f;
    if (first == stop && !g_membranes) {  // a site without events: most are
      if (g_v0) g_v0[i] = g_v ? g_v[i] : 0.0f;
      continue;
    }
    const had_i64 replica = blockIdx.x % replicas;
    float* g_w = g_weight + replica * taps * C + c;
    float u = begin;
    had_i64 last = rest;
    for (had_i64 e = first; e < stop; ++e) {
      const had_i64 now = entry_time(entries[e]);
      const float h = had_charge(u, decay_of(now - last, fall), g * weight[entry_tap(entries[e]) * C + c]);
      potentials[e * C + c] = h;
      u = had_reset(k, h, had_fire(h, th), th);
      last = now;
    }
    float carry = g_v ? g_v[i] : 0.0f, to_rate = 0.0f, to_gain = 0.0f, to_threshold = 0.0f;
    had_i64 step = T - 1;
    for (had_i64 e = stop; e >= first; --e) {
      // Here u and last are the state after event e - 1; membranes that end before event e and after event e - 1:
      const had_i64 previous = e > first ? entry_time(entries[e - 1]) : 0;
      for (; step >= 0 && (e == first || ends[step] > previous); --step) {
        if (!g_membranes) continue;
        const float age = (float)(ends[step] - last), d = decay_of(ends[step] - last, fall);
        const float gm = g_membranes[step * sites * C + i];
        carry = carry + gm * d;
        to_rate = to_rate - gm * u * d * age;
      }
      if (e == first) break;
      const had_i64 earlier = e - 1 > first ? entry_time(entries[e - 2]) : rest;
      const had_i64 tap = entry_tap(entries[e - 1]);
      float before = begin;
      if (e - 1 > first) {
        const float h1 = potentials[(e - 2) * C + c];
        before = had_reset(k, h1, had_fire(h1, th), th);
      }
      const float gs = g_counts ? g_counts[(step + 1) * sites * C + i] : 0.0f;
      const float grad =
          had_step_backward(k, potentials[(e - 1) * C + c], th, gs, 0.0f, carry, &to_threshold);
      const float age = (float)(previous - earlier), d = decay_of(previous - earlier, fall);
      had_atomic_add(g_w + tap * C, g * grad);
      to_gain = to_gain + grad * weight[tap * C + c];
      to_rate = to_rate - grad * before * d * age;
      carry = grad * d;
      u = before;
      last = earlier;
    }
    if (g_v0) g_v0[i] = carry;
    had_atomic_add(g_rate + replica * C + c, to_rate);
    had_atomic_add(g_threshold + replica * C + c, to_threshold);
    if (g_gain) had_atomic_add_together(g_gain + b, to_gain);
  }
}

#else

#include "event_lif_host.cuh"

#endif
