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

// What both directions are given.
struct Clocked {
  const storage* x;
  const float *v0, *alpha, *threshold;
  float* kept;
  had_i64 T, N, x_step, channels, inner;
  Neuron neuron;
  int stream, threads;  // CPU only: whether stores bypass the caches; how many threads share the work
};

struct LifForward {
  Clocked clocked;
  storage* s;
  float* v;
  storage* h;
};

// g_alpha and g_threshold [rows, channels], zeroed by the caller, who also adds the rows up: one row a task on a CPU; on a
// GPU any number of them, which spreads the atomic additions.
struct LifBackward {
  Clocked clocked;
  const storage *g_s, *g_h;
  const float* g_v;
  storage* g_x;
  float* g_v0;
  had_sum *g_alpha, *g_threshold;
  had_i64 rows;
};

#if HAD_GPU

HAD_KERNEL HAD_SYMBOL(lif_forward)(const LifForward p) {
  const Neuron k = p.clocked.neuron;
  const had_i64 T = p.clocked.T, N = p.clocked.N;
  for (had_i64 n = had_thread_index(); n < N; n += had_thread_count()) {
    const had_i64 c = (n / p.clocked.inner) % p.clocked.channels;
    const float a = p.clocked.alpha[c], th = p.clocked.threshold[c];
    float u = p.clocked.v0 ? p.clocked.v0[n] : 0.0f;
    for (had_i64 t = 0; t < T; ++t) {
      if (p.clocked.kept && t && t % HAD_CHUNK == 0) p.clocked.kept[(t / HAD_CHUNK - 1) * N + n] = u;
      const float h = had_charge(u, a, had_load(p.clocked.x + t * p.clocked.x_step + n, 1));
      const float fired = had_fire(h, th);
      u = had_reset(k, h, fired, th);
      had_store(p.s + t * N + n, fired, 1, 0);
      if (p.h) had_store(p.h + t * N + n, h, 1, 0);
    }
    p.v[n] = u;
  }
}

HAD_KERNEL HAD_SYMBOL(lif_backward)(const LifBackward p) {
  const Neuron k = p.clocked.neuron;
  const had_i64 T = p.clocked.T, N = p.clocked.N, row = (blockIdx.x % p.rows) * p.clocked.channels;
  for (had_i64 n = had_thread_index(); n < N; n += had_thread_count()) {
    const had_i64 c = (n / p.clocked.inner) % p.clocked.channels;
    const float a = p.clocked.alpha[c], th = p.clocked.threshold[c];
    float carry = p.g_v ? p.g_v[n] : 0.0f, to_alpha = 0.0f, to_threshold = 0.0f;
    for (had_i64 chunk = (T - 1) / HAD_CHUNK; chunk >= 0; --chunk) {
      const had_i64 t0 = chunk * HAD_CHUNK;
      const int steps = (int)(T - t0 < HAD_CHUNK ? T - t0 : HAD_CHUNK);
      float before[HAD_CHUNK], h[HAD_CHUNK];
      float u = chunk ? p.clocked.kept[(chunk - 1) * N + n] : (p.clocked.v0 ? p.clocked.v0[n] : 0.0f);
#pragma unroll
      for (int i = 0; i < HAD_CHUNK; ++i) {
        if (i < steps) {
          before[i] = u;
          h[i] = had_charge(u, a, had_load(p.clocked.x + (t0 + i) * p.clocked.x_step + n, 1));
          u = had_reset(k, h[i], had_fire(h[i], th), th);
        }
      }
#pragma unroll
      for (int i = HAD_CHUNK - 1; i >= 0; --i) {
        if (i < steps) {
          const had_i64 at = (t0 + i) * N + n;
          const float gs = p.g_s ? had_load(p.g_s + at, 1) : 0.0f, gm = p.g_h ? had_load(p.g_h + at, 1) : 0.0f;
          const float g = had_step_backward(k, h[i], th, gs, gm, carry, &to_threshold);
          if (p.g_x) had_store(p.g_x + at, g, 1, 0);
          to_alpha = to_alpha + g * before[i];
          carry = g * a;
        }
      }
    }
    if (p.g_v0) p.g_v0[n] = carry;
    if (p.g_alpha) had_atomic_add_together(p.g_alpha + row + c, to_alpha);
    if (p.g_threshold) had_atomic_add_together(p.g_threshold + row + c, to_threshold);
  }
}

#else

#include "lif_host.cuh"

#endif
