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

// g_alpha and g_threshold [replicas, channels] spread the atomic additions; the caller adds the replicas up.
HAD_KERNEL HAD_SYMBOL(lif_backward)(const storage* x, const float* v0, const float* alpha, const float* threshold,
                                    const float* kept, const storage* g_s, const storage* g_h, const float* g_v,
                                    storage* g_x, float* g_v0, float* g_alpha, float* g_threshold, had_i64 T,
                                    had_i64 N, had_i64 x_step, had_i64 channels, had_i64 inner, had_i64 replicas,
                                    float v_reset, float slope, int surrogate, int soft, int detach) {
  const Neuron k = {v_reset, slope, surrogate, soft, detach};
  const had_i64 replica = (blockIdx.x % replicas) * channels;
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
    if (g_alpha) had_atomic_add_together(g_alpha + replica + c, to_alpha);
    if (g_threshold) had_atomic_add_together(g_threshold + replica + c, to_threshold);
  }
}

#else

#include "lif_host.cuh"

#endif
