// The CPU loops of the event-driven LIF: sites over threads, the events of a site in order, channels in lanes. The steps
// are those of surrogate.cuh; see event_lif.cu for the equations and the layout of every array.
#ifndef HAD_EVENT_LIF_HOST_CUH
#define HAD_EVENT_LIF_HOST_CUH

#include <stdlib.h>

// Events whose potentials are held at once in the backward: h, decay and potential before, 24 KiB at 16 lanes, stay in L1.
#define HAD_HELD 128
// Tasks per launch, whatever the number of threads: partial sums are added up task by task, so that a gradient does not
// depend on the number of threads.
#define HAD_TASKS 64

HAD_INLINE had_i64 entry_time(had_u64 entry) { return (had_i64)(entry >> HAD_TAP_BITS); }
HAD_INLINE had_i64 entry_tap(had_u64 entry) { return (had_i64)(entry & ((1u << HAD_TAP_BITS) - 1)); }

// First site of a task: tasks hold about the same number of events, and of sites where there are none.
static had_i64 task_begin(const Window* w, had_i64 task) {
  const had_i64 first = w->start[0], goal = task * ((w->start[w->sites] - first + w->sites) / HAD_TASKS + 1);
  had_i64 low = 0, high = w->sites;
  while (low < high) {
    const had_i64 middle = (low + high) / 2;
    if (w->start[middle] - first + middle < goal)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

HAD_INLINE lanes channel_gain(const Window* w, had_i64 site) {
  return had_splat(w->gain ? w->gain[site / w->sites_per_sample] : 1.0f);
}

// One site, `count` channels from c on. `count` is a constant at each call.
HAD_INLINE void forward_site(const Window* w, const Neuron k, float* counts, float* membranes, float* v,
                             had_i64* t_last, had_i64 site, had_i64 c, const int count) {
  const had_i64 *ends = w->bound + site / w->sites_per_sample * (w->T + 1) + 1, row = w->sites * w->C;
  const lanes th = had_load_f32(w->threshold + c, count), fall = -had_load_f32(w->rate + c, count);
  const lanes gain = channel_gain(w, site);
  lanes u = w->v0 ? had_load_f32(w->v0 + site * w->C + c, count) : had_splat(0.0f), fired = had_splat(0.0f);
  float* count_at = counts + site * w->C + c;
  float* membrane_at = membranes ? membranes + site * w->C + c : 0;
  had_i64 last = w->t_last0 ? w->t_last0[site] : 0, step = 0, end = ends[0];
  const had_u64 *e = w->entries + w->start[site], *stop = w->entries + w->start[site + 1];
  for (; e < stop; ++e) {
    const had_i64 now = entry_time(*e);
    if (now >= end) {
      had_store_f32(count_at + step * row, fired, count);
      fired = had_splat(0.0f);
      do {
        if (membrane_at) had_store_f32(membrane_at + step * row, u * had_exp((float)(end - last) * fall), count);
        end = ends[++step];
      } while (now >= end);
    }
    const lanes input = gain * had_load_f32(w->weight + entry_tap(*e) * w->C + c, count);
    const lanes h = had_charge(u, had_exp((float)(now - last) * fall), input);
    const lanes s = had_fire(h, th);
    u = had_reset(k, h, s, th);
    fired = fired + s;
    last = now;
  }
  had_store_f32(count_at + step * row, fired, count);
  if (membrane_at)
    for (; step < w->T; ++step)
      had_store_f32(membrane_at + step * row, u * had_exp((float)(ends[step] - last) * fall), count);
  had_store_f32(v + site * w->C + c, u, count);
  t_last[site] = last;
}

static void forward_task(const Window* w, const Neuron k, float* counts, float* membranes, float* v, had_i64* t_last,
                         had_i64 from, had_i64 to) {
  const had_i64 C = w->C;
  const size_t width = (size_t)((to - from) * C) * sizeof(float);
  for (had_i64 step = 0; step < w->T; ++step) {
    memset(counts + (step * w->sites + from) * C, 0, width);
    if (membranes && !w->v0) memset(membranes + (step * w->sites + from) * C, 0, width);
  }
  if (w->v0)
    memcpy(v + from * C, w->v0 + from * C, width);
  else
    memset(v + from * C, 0, width);
  for (had_i64 site = from; site < to; ++site) {
    if (w->start[site] == w->start[site + 1] && !(membranes && w->v0)) {
      t_last[site] = w->t_last0 ? w->t_last0[site] : 0;
      continue;
    }
    had_i64 c = 0;
    for (; c + HAD_LANES <= C; c += HAD_LANES) forward_site(w, k, counts, membranes, v, t_last, site, c, HAD_LANES);
    if (c < C) forward_site(w, k, counts, membranes, v, t_last, site, c, (int)(C - c));
  }
}

HAD_EXPORT void HAD_SYMBOL(event_lif_forward)(const had_u64* entries, const had_i64* start, const had_i64* bound,
                                              const float* weight, const float* rate, const float* gain,
                                              const float* threshold, const float* v0, const had_i64* t_last0,
                                              float* counts, float* membranes, float* v, had_i64* t_last,
                                              had_i64 sites, had_i64 sites_per_sample, had_i64 T, had_i64 C,
                                              float v_reset, float slope, int surrogate, int soft, int detach,
                                              int threads) {
  const Window w = {entries, start, bound, weight, rate, gain, threshold, v0, t_last0, sites, sites_per_sample, T, C};
  const Neuron k = {v_reset, slope, surrogate, soft, detach};
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
  for (had_i64 task = 0; task < HAD_TASKS; ++task)
    forward_task(&w, k, counts, membranes, v, t_last, task_begin(&w, task), task_begin(&w, task + 1));
}

typedef struct {
  const float *g_counts, *g_membranes, *g_v;
  float* g_v0;
  double *weight, *rate, *gain, *threshold;  // this task's partial sums: [taps, C], [C], [B], [C]
  float* weight_part;                        // [taps, C] float32, emptied into `weight` every few thousand events
  had_i64 weight_pending, taps;
  float* kept;  // potential before every HAD_HELD-th event of the site at hand, [.., HAD_LANES]
  had_i64 kept_size;
} SiteGradients;

HAD_INLINE void add_lanes(double* sums, lanes values, int count) {
  for (int i = 0; i < count; ++i) sums[i] += values[i];
}

static void empty_weight_part(const Window* w, SiteGradients* q) {
  for (had_i64 i = 0; i < q->taps * w->C; ++i) {
    q->weight[i] += q->weight_part[i];
    q->weight_part[i] = 0.0f;
  }
  q->weight_pending = 0;
}

HAD_INLINE void backward_site(const Window* w, const Neuron k, SiteGradients* q, had_i64 site, had_i64 c,
                              const int count) {
  const had_i64 b = site / w->sites_per_sample, row = w->sites * w->C, at = site * w->C + c;
  const had_i64 *ends = w->bound + b * (w->T + 1) + 1, rest = w->t_last0 ? w->t_last0[site] : 0;
  const had_u64* e = w->entries + w->start[site];
  const had_i64 n = w->start[site + 1] - w->start[site], chunks = (n + HAD_HELD - 1) / HAD_HELD;
  const lanes th = had_load_f32(w->threshold + c, count), fall = -had_load_f32(w->rate + c, count);
  const lanes gain = channel_gain(w, site), zero = had_splat(0.0f);
  const lanes begin = w->v0 ? had_load_f32(w->v0 + at, count) : zero;
  lanes before[HAD_HELD + 1], h[HAD_HELD], decay[HAD_HELD];

  had_i64 last = rest;
  lanes u = begin;
  for (had_i64 i = 0; i < (chunks - 1) * HAD_HELD; ++i) {  // potentials at the beginning of every chunk but the first
    const had_i64 now = entry_time(e[i]);
    const lanes input = gain * had_load_f32(w->weight + entry_tap(e[i]) * w->C + c, count);
    const lanes charged = had_charge(u, had_exp((float)(now - last) * fall), input);
    u = had_reset(k, charged, had_fire(charged, th), th);
    last = now;
    if ((i + 1) % HAD_HELD == 0) had_store_f32(q->kept + (i + 1) / HAD_HELD * HAD_LANES, u, HAD_LANES);
  }

  lanes carry = q->g_v ? had_load_f32(q->g_v + at, count) : zero;
  lanes to_rate = zero, to_gain = zero, to_threshold = zero;
  had_i64 step = w->T - 1;
  for (had_i64 chunk = chunks > 0 ? chunks - 1 : 0; chunk >= 0; --chunk) {
    const had_i64 i0 = chunk * HAD_HELD;
    const int held = (int)(n - i0 < HAD_HELD ? n - i0 : HAD_HELD);
    last = i0 ? entry_time(e[i0 - 1]) : rest;
    before[0] = i0 ? had_load_f32(q->kept + chunk * HAD_LANES, HAD_LANES) : begin;
    for (int i = 0; i < held; ++i) {
      const had_i64 now = entry_time(e[i0 + i]);
      const lanes input = gain * had_load_f32(w->weight + entry_tap(e[i0 + i]) * w->C + c, count);
      decay[i] = had_exp((float)(now - last) * fall);
      h[i] = had_charge(before[i], decay[i], input);
      before[i + 1] = had_reset(k, h[i], had_fire(h[i], th), th);
      last = now;
    }
    for (int i = held; i >= 0; --i) {
      // before[i] is the potential after event i - 1. Membranes read between event i - 1 and event i come first; at a
      // chunk's lower edge they are left to the chunk below, which ends with the same potential.
      if (i == 0 && i0) break;
      const had_i64 previous = i0 + i ? entry_time(e[i0 + i - 1]) : rest;
      for (; step >= 0 && (i0 + i == 0 || ends[step] > previous); --step) {
        if (!q->g_membranes) continue;
        const float age = (float)(ends[step] - previous);
        const lanes d = had_exp(age * fall), gm = had_load_f32(q->g_membranes + step * row + at, count);
        carry = carry + gm * d;
        to_rate = to_rate - gm * before[i] * d * age;
      }
      if (i == 0) break;
      const had_i64 tap = entry_tap(e[i0 + i - 1]), earlier = i0 + i > 1 ? entry_time(e[i0 + i - 2]) : rest;
      const lanes gs = q->g_counts ? had_load_f32(q->g_counts + (step + 1) * row + at, count) : zero;
      const lanes grad = had_step_backward(k, h[i - 1], th, gs, zero, carry, &to_threshold);
      float* part = q->weight_part + tap * w->C + c;
      had_store_f32(part, had_load_f32(part, count) + gain * grad, count);
      if (q->gain) to_gain = to_gain + grad * had_load_f32(w->weight + tap * w->C + c, count);
      carry = grad * decay[i - 1];
      to_rate = to_rate - carry * before[i - 1] * (float)(previous - earlier);
    }
    add_lanes(q->rate + c, to_rate, count);
    add_lanes(q->threshold + c, to_threshold, count);
    if (q->gain)
      for (int i = 0; i < count; ++i) q->gain[b] += to_gain[i];
    to_rate = to_gain = to_threshold = zero;
    if ((q->weight_pending += held) > 4096) empty_weight_part(w, q);
  }
  if (q->g_v0) had_store_f32(q->g_v0 + at, carry, count);
}

static int backward_task(const Window* w, const Neuron k, SiteGradients q, had_i64 from, had_i64 to) {
  q.weight_part = (float*)calloc((size_t)(q.taps * w->C), sizeof(float));
  q.kept = 0;
  q.kept_size = 0;
  int failed = !q.weight_part;
  for (had_i64 site = from; site < to && !failed; ++site) {
    const had_i64 chunks = (w->start[site + 1] - w->start[site]) / HAD_HELD + 1;
    if (w->start[site] == w->start[site + 1] && !w->v0) {
      if (q.g_v0) memset(q.g_v0 + site * w->C, 0, (size_t)w->C * sizeof(float));
      continue;
    }
    if (chunks > q.kept_size) {
      free(q.kept);
      q.kept = (float*)malloc((size_t)chunks * HAD_LANES * sizeof(float));
      q.kept_size = q.kept ? chunks : 0;
      failed = !q.kept;
      if (failed) break;
    }
    had_i64 c = 0;
    for (; c + HAD_LANES <= w->C; c += HAD_LANES) backward_site(w, k, &q, site, c, HAD_LANES);
    if (c < w->C) backward_site(w, k, &q, site, c, (int)(w->C - c));
  }
  if (q.weight_part) empty_weight_part(w, &q);
  free(q.weight_part);
  free(q.kept);
  return failed;
}

// Partial sums g_weight [HAD_TASKS, taps, C], g_rate and g_threshold [HAD_TASKS, C], g_gain [HAD_TASKS, B] or null: all
// float64, zeroed by the caller, who also adds them up. Returns 1 where scratch memory could not be had.
HAD_EXPORT int HAD_SYMBOL(event_lif_backward)(const had_u64* entries, const had_i64* start, const had_i64* bound,
                                              const float* weight, const float* rate, const float* gain,
                                              const float* threshold, const float* v0, const had_i64* t_last0,
                                              const float* g_counts, const float* g_membranes, const float* g_v,
                                              double* g_weight, double* g_rate, double* g_gain, double* g_threshold,
                                              float* g_v0, had_i64 sites, had_i64 sites_per_sample, had_i64 T,
                                              had_i64 C, had_i64 taps, float v_reset, float slope, int surrogate,
                                              int soft, int detach, int threads) {
  const Window w = {entries, start, bound, weight, rate, gain, threshold, v0, t_last0, sites, sites_per_sample, T, C};
  const Neuron k = {v_reset, slope, surrogate, soft, detach};
  const had_i64 samples = sites / sites_per_sample;
  int failed = 0;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1) reduction(| : failed)
  for (had_i64 task = 0; task < HAD_TASKS; ++task) {
    SiteGradients q = {g_counts, g_membranes, g_v, g_v0, g_weight + task * taps * C, g_rate + task * C,
                       g_gain ? g_gain + task * samples : 0, g_threshold + task * C, 0, 0, taps, 0, 0};
    failed |= backward_task(&w, k, q, task_begin(&w, task), task_begin(&w, task + 1));
  }
  return failed;
}

#endif
