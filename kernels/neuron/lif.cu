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

// Inputs that are read before the first of them is needed: the recurrence is a chain, and only loads that are under way
// together hide how long the memory takes. A power of two that divides HAD_CHUNK.
#define HAD_AHEAD 4
// Half of HAD_CHUNK: steps whose potentials the backward holds at once.
#define HAD_HELD 8

HAD_INLINE had_i64 channel_of(const Clocked& w, had_i64 n) {
  if (w.channels == 1) return 0;
  // A 64-bit division costs as much as several time steps.
  if (w.N <= 0x7fffffffll) return (had_u32)n / (had_u32)w.inner % (had_u32)w.channels;
  return n / w.inner % w.channels;
}

HAD_INLINE void forward_neuron(const LifForward& p, const Neuron k, had_i64 n) {
  const Clocked& w = p.clocked;
  const had_i64 c = channel_of(w, n);
  const float a = w.alpha[c], th = w.threshold[c];
  float u = w.v0 ? w.v0[n] : 0.0f;
  for (had_i64 t0 = 0; t0 < w.T; t0 += HAD_AHEAD) {
    if (w.kept && t0 && t0 % HAD_CHUNK == 0) w.kept[(t0 / HAD_CHUNK - 1) * w.N + n] = u;
    float x[HAD_AHEAD];
#pragma unroll
    for (int i = 0; i < HAD_AHEAD; ++i) x[i] = t0 + i < w.T ? had_load(w.x + (t0 + i) * w.x_step + n, 1) : 0.0f;
#pragma unroll
    for (int i = 0; i < HAD_AHEAD; ++i) {
      if (t0 + i < w.T) {
        const float h = had_charge(u, a, x[i]);
        const float fired = had_fire(h, th);
        u = had_reset(k, h, fired, th);
        had_store(p.s + (t0 + i) * w.N + n, fired, 1, 0);
        if (p.h) had_store(p.h + (t0 + i) * w.N + n, h, 1, 0);
      }
    }
  }
  p.v[n] = u;
}

HAD_KERNEL HAD_SYMBOL(lif_forward)(const LifForward p) {
  const Neuron k = p.clocked.neuron;
  for (had_i64 n = had_thread_index(); n < p.clocked.N; n += had_thread_count()) forward_neuron(p, k, n);
}

// Walks the steps [t0, t0 + HAD_HELD) back, from the potential `begin` before them; returns the gradient in it.
HAD_INLINE float backward_steps(const LifBackward& p, const Neuron k, had_i64 n, had_i64 t0, float a, float th, float begin,
                                float carry, float* to_alpha, float* to_threshold) {
  const Clocked& w = p.clocked;
  float h[HAD_HELD], gs[HAD_HELD], u = begin;
#pragma unroll
  for (int i = 0; i < HAD_HELD; ++i) h[i] = t0 + i < w.T ? had_load_once(w.x + (t0 + i) * w.x_step + n) : 0.0f;
#pragma unroll
  for (int i = 0; i < HAD_HELD; ++i) gs[i] = p.g_s && t0 + i < w.T ? had_load_once(p.g_s + (t0 + i) * w.N + n) : 0.0f;
#pragma unroll
  for (int i = 0; i < HAD_HELD; ++i) {
    h[i] = had_charge(u, a, h[i]);
    u = had_reset(k, h[i], had_fire(h[i], th), th);
  }
#pragma unroll
  for (int i = HAD_HELD - 1; i >= 0; --i) {
    if (t0 + i < w.T) {
      const had_i64 at = (t0 + i) * w.N + n;
      const float gm = p.g_h ? had_load_once(p.g_h + at) : 0.0f, h1 = h[i ? i - 1 : 0];
      const float g = had_step_backward(k, h[i], th, gs[i], gm, carry, to_threshold);
      if (p.g_x) had_store(p.g_x + at, g, 1, 1);
      *to_alpha = *to_alpha + g * (i ? had_reset(k, h1, had_fire(h1, th), th) : begin);
      carry = g * a;
    }
  }
  return carry;
}

// Returns the gradient in v0; adds those in alpha and threshold. A chunk is walked back in two halves, so that potentials
// and gradients stay in few registers and many threads hide the memory's latency; the first half's inputs are read twice.
HAD_INLINE float backward_neuron(const LifBackward& p, const Neuron k, had_i64 n, had_i64 c, float* to_alpha,
                                 float* to_threshold) {
  const Clocked& w = p.clocked;
  const float a = w.alpha[c], th = w.threshold[c];
  float carry = p.g_v ? p.g_v[n] : 0.0f;
  for (had_i64 chunk = (w.T - 1) / HAD_CHUNK; chunk >= 0; --chunk) {
    const had_i64 t0 = chunk * HAD_CHUNK;
    const float begin = chunk ? w.kept[(chunk - 1) * w.N + n] : (w.v0 ? w.v0[n] : 0.0f);
    if (t0 + HAD_HELD < w.T) {
      float x[HAD_HELD], u = begin;
#pragma unroll
      for (int i = 0; i < HAD_HELD; ++i) x[i] = had_load(w.x + (t0 + i) * w.x_step + n, 1);
#pragma unroll
      for (int i = 0; i < HAD_HELD; ++i) {
        const float h = had_charge(u, a, x[i]);
        u = had_reset(k, h, had_fire(h, th), th);
      }
      carry = backward_steps(p, k, n, t0 + HAD_HELD, a, th, u, carry, to_alpha, to_threshold);
    }
    carry = backward_steps(p, k, n, t0, a, th, begin, carry, to_alpha, to_threshold);
  }
  return carry;
}

// A thread adds up what goes to one channel, and meets the others only where the channel changes: the grid is cut so that,
// with channels last, it never does.
HAD_INLINE void backward_thread(const LifBackward& p, const Neuron k) {
  const had_i64 row = (blockIdx.x % p.rows) * p.clocked.channels;
  had_i64 held = -1;
  float to_alpha = 0.0f, to_threshold = 0.0f;
  for (had_i64 n = had_thread_index(); n < p.clocked.N; n += had_thread_count()) {
    const had_i64 c = channel_of(p.clocked, n);
    if (held >= 0 && c != held) {
      if (p.g_alpha) had_atomic_add(p.g_alpha + row + held, to_alpha);
      if (p.g_threshold) had_atomic_add(p.g_threshold + row + held, to_threshold);
      to_alpha = to_threshold = 0.0f;
    }
    held = c;
    const float carry = backward_neuron(p, k, n, c, &to_alpha, &to_threshold);
    if (p.g_v0) p.g_v0[n] = carry;
  }
  if (held < 0) return;
  if (p.g_alpha) had_atomic_add_together(p.g_alpha + row + held, to_alpha);
  if (p.g_threshold) had_atomic_add_together(p.g_threshold + row + held, to_threshold);
}

HAD_KERNEL HAD_SYMBOL(lif_backward)(const LifBackward p) {
  const Neuron k = p.clocked.neuron;
  if (k.surrogate == 0 && !k.soft && k.detach)  // constants let the compiler drop the other forms from the loop
    backward_thread(p, Neuron{k.v_reset, k.slope, 0, 0, 1});
  else
    backward_thread(p, k);
}

#else

#include "lif_host.cuh"

#endif
