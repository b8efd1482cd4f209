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

// The factors of decay(age) for every channel of the samples of one scale: fine [fine_rows, C], coarse [coarse_rows, C].
// What lies beyond the last row is rare, and computed. Built once a launch, so there are no more rows than the longest
// window or a share of the entries calls for.
typedef struct {
  float *fine, *coarse;
  had_i64 fine_rows, coarse_rows, entries, longest;
  int bits;
} Decays;

HAD_INLINE lanes falling(const Window* w, had_i64 b, had_i64 c, const int count) {
  return -(had_load_f32(w->rate + c, count) * w->scale[b]);
}

static void decays_fill(const Window* w, const Decays* d, had_i64 b) {
  for (had_i64 c = 0; c < w->C; c += HAD_LANES) {
    const int count = (int)(w->C - c < HAD_LANES ? w->C - c : HAD_LANES);
    const lanes fall = falling(w, b, c, count);
    for (had_i64 i = 0; i < d->fine_rows; ++i) had_store_f32(d->fine + i * w->C + c, fine_decay(i, fall), count);
    for (had_i64 i = 0; i < d->coarse_rows; ++i)
      had_store_f32(d->coarse + i * w->C + c, coarse_decay(i, d->bits, fall), count);
  }
}

// The table of each sample, and behind them the factors, in one piece of memory that the caller frees; null without any.
static Decays* decays_build(const Window* w) {
  const had_i64 samples = w->sites / w->sites_per_sample;
  Decays* tables = (Decays*)calloc((size_t)samples, sizeof(Decays));
  had_i64* first = (had_i64*)malloc((size_t)samples * sizeof(had_i64));  // the first sample of the same scale
  had_i64 rows = 0;
  for (had_i64 b = 0; tables && first && b < samples; ++b) {
    first[b] = b && w->scale[b] == w->scale[b - 1] ? first[b - 1] : 0;
    while (w->scale[first[b]] != w->scale[b]) ++first[b];
    Decays* d = tables + first[b];
    const had_i64 window = w->bound[b * (w->T + 1) + w->T];
    d->longest = window > d->longest ? window : d->longest;
    d->entries += w->start[(b + 1) * w->sites_per_sample] - w->start[b * w->sites_per_sample];
  }
  for (had_i64 b = 0; tables && first && b < samples; ++b) {
    if (first[b] != b) continue;
    Decays* d = tables + b;
    d->bits = fine_bits(w->scale[b]);
    const had_i64 fine = 1ll << d->bits, coarse = (d->longest >> d->bits) + 1, paid = d->entries / 16 + 32;
    d->fine_rows = fine < 128 + paid ? fine : 128 + paid;
    d->coarse_rows = coarse < paid ? coarse : paid;
    rows += d->fine_rows + d->coarse_rows;
  }
  float* factors = tables && first ? (float*)malloc((size_t)(rows * w->C) * sizeof(float)) : 0;
  if (!factors) {
    free(tables);
    free(first);
    return 0;
  }
  tables[0].fine = factors;
  for (had_i64 b = 0; b < samples; ++b) {
    if (first[b] != b) {
      tables[b] = tables[first[b]];
      continue;
    }
    tables[b].fine = factors;
    tables[b].coarse = factors + tables[b].fine_rows * w->C;
    factors = tables[b].coarse + tables[b].coarse_rows * w->C;
    decays_fill(w, tables + b, b);
  }
  free(first);
  return tables;
}

static void decays_free(Decays* tables) {
  free(tables[0].fine);
  free(tables);
}

// decay(age) of `count` channels from c on; `fall` as `falling` gives it.
HAD_INLINE lanes decay_of(const Decays* d, had_i64 C, had_i64 age, lanes fall, had_i64 c, const int count) {
  const had_i64 row = age >> d->bits, rest = age & ((1ll << d->bits) - 1);
  const lanes fine = rest < d->fine_rows ? had_load_f32(d->fine + rest * C + c, count) : fine_decay(rest, fall);
  return (row < d->coarse_rows ? had_load_f32(d->coarse + row * C + c, count) : coarse_decay(row, d->bits, fall)) * fine;
}

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

// One site, `groups` groups of channels from c on, the last of them `count` wide. Both are constants at each call: two
// groups side by side share what an event costs and hide each other's latency.
HAD_INLINE void forward_site(const EventForward* f, const Decays* tables, const Neuron k, had_i64 site, had_i64 c,
                             const int groups, const int count) {
  const Window* w = &f->window;
  const had_i64 b = site / w->sites_per_sample, *ends = w->bound + b * (w->T + 1) + 1, row = w->sites * w->C;
  const double* remaining = w->remaining + b * w->T;
  const Decays* d = tables + b;
  const lanes gain = channel_gain(w, site);
  lanes th[2], fall[2], u[2], fired[2];
  for (int g = 0; g < groups; ++g) {
    const had_i64 at = c + g * HAD_LANES;
    th[g] = had_load_f32(w->threshold + at, count);
    fall[g] = falling(w, b, at, count);
    u[g] = w->v0 ? had_load_f32(w->v0 + site * w->C + at, count) : had_splat(0.0f);
    fired[g] = had_splat(0.0f);
  }
  had_i64 last = w->t_last0 ? w->t_last0[site] : 0, step = 0, end = ends[0];
  float* count_at = f->counts + site * w->C + c;
  float* membrane_at = f->membranes ? f->membranes + site * w->C + c : 0;
  const had_u64 *e = w->entries + w->start[site], *stop = w->entries + w->start[site + 1];
  for (; e < stop; ++e) {
    const had_i64 now = entry_time(*e), tap = entry_tap(*e);
    if (now >= end) {
      for (int g = 0; g < groups; ++g) {
        had_store_f32(count_at + step * row + g * HAD_LANES, fired[g], count);
        fired[g] = had_splat(0.0f);
      }
      do {
        for (int g = 0; membrane_at && g < groups; ++g)
          had_store_f32(membrane_at + step * row + g * HAD_LANES,
                        u[g] * decay_until((double)(ends[w->T - 1] - last) - remaining[step], d->bits, fall[g]), count);
        end = ends[++step];
      } while (now >= end);
    }
#pragma GCC unroll 2
    for (int g = 0; g < groups; ++g) {
      const had_i64 at = c + g * HAD_LANES;
      const lanes input = gain * had_load_f32(w->weight + tap * w->C + at, count);
      const lanes h = had_charge(u[g], decay_of(d, w->C, now - last, fall[g], at, count), input);
      const lanes s = had_fire(h, th[g]);
      u[g] = had_reset(k, h, s, th[g]);
      fired[g] = fired[g] + s;
    }
    last = now;
  }
  for (int g = 0; g < groups; ++g) {
    const had_i64 at = g * HAD_LANES;
    had_store_f32(count_at + step * row + at, fired[g], count);
    for (had_i64 left = step; membrane_at && left < w->T; ++left)
      had_store_f32(membrane_at + left * row + at,
                    u[g] * decay_until((double)(ends[w->T - 1] - last) - remaining[left], d->bits, fall[g]), count);
    had_store_f32(f->v + site * w->C + c + at, u[g], count);
  }
  f->t_last[site] = last;
}

HAD_INLINE void forward_task(const EventForward* f, const Decays* d, const Neuron k, had_i64 from, had_i64 to) {
  const Window* w = &f->window;
  const had_i64 C = w->C;
  const size_t width = (size_t)((to - from) * C) * sizeof(float);
  for (had_i64 step = 0; step < w->T; ++step) {
    memset(f->counts + (step * w->sites + from) * C, 0, width);
    if (f->membranes && !w->v0) memset(f->membranes + (step * w->sites + from) * C, 0, width);
  }
  if (w->v0)
    memcpy(f->v + from * C, w->v0 + from * C, width);
  else
    memset(f->v + from * C, 0, width);
  for (had_i64 site = from; site < to; ++site) {
    if (w->start[site] == w->start[site + 1] && !(f->membranes && w->v0)) {
      f->t_last[site] = w->t_last0 ? w->t_last0[site] : 0;
      continue;
    }
    had_i64 c = 0;
    for (; c + 2 * HAD_LANES <= C; c += 2 * HAD_LANES) forward_site(f, d, k, site, c, 2, HAD_LANES);
    for (; c + HAD_LANES <= C; c += HAD_LANES) forward_site(f, d, k, site, c, 1, HAD_LANES);
    if (c < C) forward_site(f, d, k, site, c, 1, (int)(C - c));
  }
}

// Returns 1 where scratch memory could not be had.
HAD_EXPORT had_i64 HAD_SYMBOL(event_lif_forward)(const EventForward* given) {
  const EventForward f = *given;
  const Window* w = &f.window;
  const Neuron k = w->neuron;
  Decays* d = decays_build(w);
  if (!d) return 1;
#pragma omp parallel for schedule(dynamic, 1) num_threads(w->threads) if (w->threads > 1)
  for (had_i64 task = 0; task < HAD_TASKS; ++task) {
    const had_i64 from = task_begin(w, task), to = task_begin(w, task + 1);
    if (k.soft)
      forward_task(&f, d, k, from, to);
    else  // a constant lets the compiler drop the other reset from the loop
      forward_task(&f, d, Neuron{k.v_reset, k.slope, 0, 0, 1}, from, to);
  }
  decays_free(d);
  return 0;
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

HAD_INLINE void backward_site(const Window* w, const Decays* tables, const Neuron k, SiteGradients* q, had_i64 site,
                              had_i64 c, const int count) {
  const had_i64 b = site / w->sites_per_sample, row = w->sites * w->C, at = site * w->C + c;
  const had_i64 *ends = w->bound + b * (w->T + 1) + 1, rest = w->t_last0 ? w->t_last0[site] : 0;
  const had_u64* e = w->entries + w->start[site];
  const had_i64 n = w->start[site + 1] - w->start[site], chunks = (n + HAD_HELD - 1) / HAD_HELD;
  const double* remaining = w->remaining + b * w->T;
  const Decays* d = tables + b;
  const lanes th = had_load_f32(w->threshold + c, count), fall = falling(w, b, c, count);
  const lanes gain = channel_gain(w, site), zero = had_splat(0.0f);
  const lanes begin = w->v0 ? had_load_f32(w->v0 + at, count) : zero;
  lanes before[HAD_HELD + 1], h[HAD_HELD], decay[HAD_HELD];

  had_i64 last = rest;
  lanes u = begin;
  for (had_i64 i = 0; i < (chunks - 1) * HAD_HELD; ++i) {  // potentials at the beginning of every chunk but the first
    const had_i64 now = entry_time(e[i]);
    const lanes input = gain * had_load_f32(w->weight + entry_tap(e[i]) * w->C + c, count);
    const lanes charged = had_charge(u, decay_of(d, w->C, now - last, fall, c, count), input);
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
      decay[i] = decay_of(d, w->C, now - last, fall, c, count);
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
        const double until = (double)(ends[w->T - 1] - previous) - remaining[step];
        const float age = (float)until;
        const lanes fade = decay_until(until, d->bits, fall);
        const lanes gm = had_load_f32(q->g_membranes + step * row + at, count);
        carry = carry + gm * fade;
        to_rate = to_rate - gm * before[i] * fade * age;
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
    add_lanes(q->rate + c, to_rate * w->scale[b], count);
    add_lanes(q->threshold + c, to_threshold, count);
    if (q->gain)
      for (int i = 0; i < count; ++i) q->gain[b] += to_gain[i];
    to_rate = to_gain = to_threshold = zero;
    if ((q->weight_pending += held) > 4096) empty_weight_part(w, q);
  }
  if (q->g_v0) had_store_f32(q->g_v0 + at, carry, count);
}

static int backward_task(const Window* w, const Decays* d, const Neuron k, SiteGradients q, had_i64 from, had_i64 to) {
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
    for (; c + HAD_LANES <= w->C; c += HAD_LANES) backward_site(w, d, k, &q, site, c, HAD_LANES);
    if (c < w->C) backward_site(w, d, k, &q, site, c, (int)(w->C - c));
  }
  if (q.weight_part) empty_weight_part(w, &q);
  free(q.weight_part);
  free(q.kept);
  return failed;
}

// Returns 1 where scratch memory could not be had.
HAD_EXPORT had_i64 HAD_SYMBOL(event_lif_backward)(const EventBackward* given) {
  const EventBackward g = *given;
  const Window* w = &g.window;
  const had_i64 samples = w->sites / w->sites_per_sample;
  Decays* d = decays_build(w);
  if (!d) return 1;
  int failed = 0;
#pragma omp parallel for schedule(dynamic, 1) num_threads(w->threads) if (w->threads > 1) reduction(| : failed)
  for (had_i64 task = 0; task < g.rows; ++task) {
    SiteGradients q = {g.g_counts, g.g_membranes, g.g_v, g.g_v0, g.g_weight + task * g.taps * w->C, g.g_rate + task * w->C,
                       g.g_gain ? g.g_gain + task * samples : 0, g.g_threshold + task * w->C, 0, 0, g.taps, 0, 0};
    failed |= backward_task(w, d, w->neuron, q, task_begin(w, task), task_begin(w, task + 1));
  }
  decays_free(d);
  return failed;
}

#endif
