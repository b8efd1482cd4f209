// Clocked LIF over T steps, forward and backward.
//
//   h[t] = alpha * v[t-1] + x[t];  s[t] = h[t] > threshold;  v[t] = reset(h[t], s[t])
//
// x, s, h and their gradients are [T, N] with N neurons contiguous; `x_step` is the distance of two steps in x. alpha and
// threshold are per channel: neuron n belongs to channel (n / inner) % channels, so both NCHW (inner = H * W) and
// channels-last memory (inner = 1) run without a copy. v is float32 whatever the storage type.
//
// Memory: the backward needs x and one potential every HAD_CHUNK steps (`kept`, [(T - 1) / HAD_CHUNK, N] float32); it
// computes the potentials of a chunk again in registers or L1, then walks the chunk in reverse. Per neuron-step that
// moves 2 values forward and 3 backward instead of the textbook's 3 and 3.
#include "surrogate.cuh"

#define HAD_CHUNK 16

#if HAD_GPU

HAD_KERNEL HAD_SYMBOL(lif_forward)(const storage* x, const float* v0, const float* alpha, const float* threshold,
                                   storage* s, float* v, storage* h_out, float* kept, had_i64 T, had_i64 N,
                                   had_i64 x_step, had_i64 channels, had_i64 inner, float v_reset, float slope,
                                   int surrogate, int soft, int detach) {
  const Neuron k = {v_reset, slope, surrogate, soft, detach};
  for (had_i64 n = had_thread_index(); n < N; n += had_thread_count()) {
    const had_i64 c = (n / inner) % channels;
    const float a = alpha[c], th = threshold[c];
    float u = v0 ? v0[n] : 0.0f;
    for (had_i64 t = 0; t < T; ++t) {
      if (kept && t && t % HAD_CHUNK == 0) kept[(t / HAD_CHUNK - 1) * N + n] = u;
      const float h = had_charge(u, a, had_load(x + t * x_step + n, 1));
      const float fired = had_fire(h, th);
      u = had_reset(k, h, fired, th);
      had_store(s + t * N + n, fired, 1, 0);
      if (h_out) had_store(h_out + t * N + n, h, 1, 0);
    }
    v[n] = u;
  }
}

HAD_KERNEL HAD_SYMBOL(lif_backward)(const storage* x, const float* v0, const float* alpha, const float* threshold,
                                    const float* kept, const storage* g_s, const storage* g_h, const float* g_v,
                                    storage* g_x, float* g_v0, float* g_alpha, float* g_threshold, had_i64 T,
                                    had_i64 N, had_i64 x_step, had_i64 channels, had_i64 inner, float v_reset,
                                    float slope, int surrogate, int soft, int detach) {
  const Neuron k = {v_reset, slope, surrogate, soft, detach};
  for (had_i64 n = had_thread_index(); n < N; n += had_thread_count()) {
    const had_i64 c = (n / inner) % channels;
    const float a = alpha[c], th = threshold[c];
    float carry = g_v ? g_v[n] : 0.0f, to_alpha = 0.0f, to_threshold = 0.0f;
    for (had_i64 chunk = (T - 1) / HAD_CHUNK; chunk >= 0; --chunk) {
      const had_i64 t0 = chunk * HAD_CHUNK;
      const int steps = (int)(T - t0 < HAD_CHUNK ? T - t0 : HAD_CHUNK);
      float before[HAD_CHUNK], h[HAD_CHUNK];
      float u = chunk ? kept[(chunk - 1) * N + n] : (v0 ? v0[n] : 0.0f);
#pragma unroll
      for (int i = 0; i < HAD_CHUNK; ++i) {
        if (i < steps) {
          before[i] = u;
          h[i] = had_charge(u, a, had_load(x + (t0 + i) * x_step + n, 1));
          u = had_reset(k, h[i], had_fire(h[i], th), th);
        }
      }
#pragma unroll
      for (int i = HAD_CHUNK - 1; i >= 0; --i) {
        if (i < steps) {
          const had_i64 at = (t0 + i) * N + n;
          const float gs = g_s ? had_load(g_s + at, 1) : 0.0f, gm = g_h ? had_load(g_h + at, 1) : 0.0f;
          const float g = had_step_backward(k, h[i], th, gs, gm, carry, &to_threshold);
          if (g_x) had_store(g_x + at, g, 1, 0);
          to_alpha = to_alpha + g * before[i];
          carry = g * a;
        }
      }
    }
    if (g_v0) g_v0[n] = carry;
    if (g_alpha) had_atomic_add(g_alpha + c, to_alpha);
    if (g_threshold) had_atomic_add(g_threshold + c, to_threshold);
  }
}

#else

// Neurons of one task: a multiple of the widest group. The partial sums of alpha and threshold are added up task by
// task, in order, so a gradient does not depend on the number of threads.
#define HAD_TASK 16384
#define HAD_GROUPS 4

// T rows are read side by side, more streams than hardware prefetchers follow: fetch four groups ahead, into L2 (a third
// of the backward's time in a trial). Addresses past the end are harmless.
HAD_INLINE void prefetch(const storage* row) { __builtin_prefetch(row + 4 * HAD_GROUPS * HAD_LANES, 0, 2); }

typedef struct {
  const storage* x;
  const float *v0, *alpha, *threshold;
  float* kept;
  had_i64 T, N, x_step, channels, inner;
  int stream;
} Clocked;

// Values of a per-channel parameter for neurons n .. n + count - 1.
HAD_INLINE lanes per_channel(const Clocked* p, const float* values, had_i64 n, int count) {
  if (p->channels == 1) return had_splat(values[0]);
  had_i64 c = (n / p->inner) % p->channels, r = n % p->inner;
  if (r + count <= p->inner) return had_splat(values[c]);
  if (p->inner == 1 && c + count <= p->channels) return had_load_f32(values + c, count);
  lanes out = {};
  for (int i = 0; i < count; ++i) {
    out[i] = values[c];
    if (++r == p->inner) {
      r = 0;
      if (++c == p->channels) c = 0;
    }
  }
  return out;
}

HAD_INLINE void add_per_channel(const Clocked* p, double* sums, lanes values, had_i64 n, int count) {
  had_i64 c = (n / p->inner) % p->channels, r = n % p->inner;
  for (int i = 0; i < count; ++i) {
    sums[c] += values[i];
    if (++r == p->inner) {
      r = 0;
      if (++c == p->channels) c = 0;
    }
  }
}

// `groups` and `count` are constants at each call, so the compiler unrolls over groups and drops the tail code.
HAD_INLINE void forward_groups(const Clocked* p, const Neuron k, storage* s, float* v, storage* h_out, had_i64 n,
                               const int groups, const int count) {
  lanes u[HAD_GROUPS], a[HAD_GROUPS], th[HAD_GROUPS];
  for (int g = 0; g < groups; ++g) {
    const had_i64 m = n + g * HAD_LANES;
    u[g] = p->v0 ? had_load_f32(p->v0 + m, count) : had_splat(0.0f);
    a[g] = per_channel(p, p->alpha, m, count);
    th[g] = per_channel(p, p->threshold, m, count);
  }
  for (had_i64 t = 0; t < p->T; ++t) {
    if (p->kept && t && t % HAD_CHUNK == 0)
      for (int g = 0; g < groups; ++g)
        had_store_f32(p->kept + (t / HAD_CHUNK - 1) * p->N + n + g * HAD_LANES, u[g], count);
#pragma GCC unroll 4
    for (int g = 0; g < groups; ++g) {
      const had_i64 m = n + g * HAD_LANES;
      prefetch(p->x + t * p->x_step + m);
      const lanes h = had_charge(u[g], a[g], had_load(p->x + t * p->x_step + m, count));
      const lanes fired = had_fire(h, th[g]);
      u[g] = had_reset(k, h, fired, th[g]);
      had_store(s + t * p->N + m, fired, count, p->stream);
      if (h_out) had_store(h_out + t * p->N + m, h, count, p->stream);
    }
  }
  for (int g = 0; g < groups; ++g) had_store_f32(v + n + g * HAD_LANES, u[g], count);
}

HAD_INLINE void forward_range(const Clocked* p, const Neuron k, storage* s, float* v, storage* h_out, had_i64 n,
                              had_i64 end) {
  const int full = HAD_GROUPS * HAD_LANES;
  for (; n + full <= end; n += full) forward_groups(p, k, s, v, h_out, n, HAD_GROUPS, HAD_LANES);
  for (; n + HAD_LANES <= end; n += HAD_LANES) forward_groups(p, k, s, v, h_out, n, 1, HAD_LANES);
  if (n < end) forward_groups(p, k, s, v, h_out, n, 1, (int)(end - n));
}

// The constants in the usual cases' `Neuron` let the compiler drop the other cases from the loops.
HAD_EXPORT void HAD_SYMBOL(lif_forward)(const storage* x, const float* v0, const float* alpha, const float* threshold,
                                        storage* s, float* v, storage* h_out, float* kept, had_i64 T, had_i64 N,
                                        had_i64 x_step, had_i64 channels, had_i64 inner, float v_reset, float slope,
                                        int surrogate, int soft, int detach, int stream, int threads) {
  const Clocked p = {x, v0, alpha, threshold, kept, T, N, x_step, channels, inner, stream};
  const Neuron k = {v_reset, slope, surrogate, soft, detach};
  const had_i64 tasks = (N + HAD_TASK - 1) / HAD_TASK;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (had_i64 task = 0; task < tasks; ++task) {
    const had_i64 from = task * HAD_TASK, to = from + HAD_TASK < N ? from + HAD_TASK : N;
    if (!soft && !h_out)
      forward_range(&p, Neuron{v_reset, slope, 0, 0, 1}, s, v, 0, from, to);
    else
      forward_range(&p, k, s, v, h_out, from, to);
    if (stream) had_stream_fence();
  }
}

typedef struct {
  const storage* g_s;
  const float* g_v;
  storage* g_x;
  float* g_v0;
} Gradients;

HAD_INLINE void backward_groups(const Clocked* p, const Neuron k, const Gradients* q, const storage* g_h,
                                double* alpha_sums, double* threshold_sums, had_i64 n, const int groups,
                                const int count) {
  lanes carry[HAD_GROUPS], a[HAD_GROUPS], th[HAD_GROUPS], to_alpha[HAD_GROUPS], to_threshold[HAD_GROUPS];
  lanes before[HAD_CHUNK][HAD_GROUPS], h[HAD_CHUNK][HAD_GROUPS];
  for (int g = 0; g < groups; ++g) {
    const had_i64 m = n + g * HAD_LANES;
    carry[g] = q->g_v ? had_load_f32(q->g_v + m, count) : had_splat(0.0f);
    a[g] = per_channel(p, p->alpha, m, count);
    th[g] = per_channel(p, p->threshold, m, count);
    to_alpha[g] = to_threshold[g] = had_splat(0.0f);
  }
  for (had_i64 chunk = (p->T - 1) / HAD_CHUNK; chunk >= 0; --chunk) {
    const had_i64 t0 = chunk * HAD_CHUNK;
    const int steps = (int)(p->T - t0 < HAD_CHUNK ? p->T - t0 : HAD_CHUNK);
    lanes u[HAD_GROUPS];
    for (int g = 0; g < groups; ++g) {
      const float* from = chunk ? p->kept + (chunk - 1) * p->N : p->v0;
      u[g] = from ? had_load_f32(from + n + g * HAD_LANES, count) : had_splat(0.0f);
    }
    for (int i = 0; i < steps; ++i) {
#pragma GCC unroll 4
      for (int g = 0; g < groups; ++g) {
        before[i][g] = u[g];
        if (q->g_s) prefetch(q->g_s + (t0 + i) * p->N + n + g * HAD_LANES);
        h[i][g] = had_charge(u[g], a[g], had_load(p->x + (t0 + i) * p->x_step + n + g * HAD_LANES, count));
        u[g] = had_reset(k, h[i][g], had_fire(h[i][g], th[g]), th[g]);
      }
    }
    for (int i = steps - 1; i >= 0; --i) {
#pragma GCC unroll 4
      for (int g = 0; g < groups; ++g) {
        const had_i64 at = (t0 + i) * p->N + n + g * HAD_LANES;
        const lanes gs = q->g_s ? had_load(q->g_s + at, count) : had_splat(0.0f);
        const lanes gm = g_h ? had_load(g_h + at, count) : had_splat(0.0f);
        prefetch(p->x + (t0 + i) * p->x_step + n + g * HAD_LANES);
        const lanes grad = had_step_backward(k, h[i][g], th[g], gs, gm, carry[g], &to_threshold[g]);
        if (q->g_x) had_store(q->g_x + at, grad, count, p->stream);
        to_alpha[g] = to_alpha[g] + grad * before[i][g];
        carry[g] = grad * a[g];
      }
    }
  }
  for (int g = 0; g < groups; ++g) {
    const had_i64 m = n + g * HAD_LANES;
    if (q->g_v0) had_store_f32(q->g_v0 + m, carry[g], count);
    if (alpha_sums) add_per_channel(p, alpha_sums, to_alpha[g], m, count);
    if (threshold_sums) add_per_channel(p, threshold_sums, to_threshold[g], m, count);
  }
}

HAD_INLINE void backward_range(const Clocked* p, const Neuron k, const Gradients* q, const storage* g_h,
                               double* alpha_sums, double* threshold_sums, had_i64 n, had_i64 end) {
  const int full = HAD_GROUPS * HAD_LANES;
  for (; n + full <= end; n += full)
    backward_groups(p, k, q, g_h, alpha_sums, threshold_sums, n, HAD_GROUPS, HAD_LANES);
  for (; n + HAD_LANES <= end; n += HAD_LANES)
    backward_groups(p, k, q, g_h, alpha_sums, threshold_sums, n, 1, HAD_LANES);
  if (n < end) backward_groups(p, k, q, g_h, alpha_sums, threshold_sums, n, 1, (int)(end - n));
}

// `g_alpha` and `g_threshold` are [tasks, channels] float64, zeroed by the caller, who also adds them up; or null.
HAD_EXPORT void HAD_SYMBOL(lif_backward)(const storage* x, const float* v0, const float* alpha, const float* threshold,
                                         float* kept, const storage* g_s, const storage* g_h, const float* g_v,
                                         storage* g_x, float* g_v0, double* g_alpha, double* g_threshold, had_i64 T,
                                         had_i64 N, had_i64 x_step, had_i64 channels, had_i64 inner, float v_reset,
                                         float slope, int surrogate, int soft, int detach, int stream, int threads) {
  const Clocked p = {x, v0, alpha, threshold, kept, T, N, x_step, channels, inner, stream};
  const Neuron k = {v_reset, slope, surrogate, soft, detach};
  const Gradients q = {g_s, g_v, g_x, g_v0};
  const had_i64 tasks = (N + HAD_TASK - 1) / HAD_TASK;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (had_i64 task = 0; task < tasks; ++task) {
    const had_i64 from = task * HAD_TASK, to = from + HAD_TASK < N ? from + HAD_TASK : N;
    double* to_alpha = g_alpha ? g_alpha + task * channels : 0;
    double* to_threshold = g_threshold ? g_threshold + task * channels : 0;
    const int usual = !soft && detach && !g_h;
    if (usual && surrogate == 0)
      backward_range(&p, Neuron{v_reset, slope, 0, 0, 1}, &q, 0, to_alpha, to_threshold, from, to);
    else if (usual && surrogate == 2)
      backward_range(&p, Neuron{v_reset, slope, 2, 0, 1}, &q, 0, to_alpha, to_threshold, from, to);
    else
      backward_range(&p, k, &q, g_h, to_alpha, to_threshold, from, to);
    if (stream) had_stream_fence();
  }
}

#endif
