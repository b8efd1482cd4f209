// The neuron's step and its gradient, once, for the clocked and the event-driven loops on every machine.
//
//   charge   h = decay * v + input
//   fire     s = 1 if h > threshold else 0                      (strict)
//   reset    hard: v = v_reset where s else h                   soft: v = h - s * threshold
//
// Backward. ds/dh is replaced by a surrogate d(h - threshold); ds/dthreshold is -d. With the reset detached (the
// default, Zenke & Vogels 2021, doi 10.1162/neco_a_01367) the spike inside the reset counts as a constant.
//
// Surrogates, u = slope * (h - threshold):
//   0 atan      slope / 2 / (1 + (pi/2 * u)^2)      Fang et al. 2021, arXiv 2007.05785
//   1 sigmoid   slope * sg(u) * (1 - sg(u))         Zenke & Ganguli 2018, doi 10.1162/neco_a_01086 (sigmoidal form)
//   2 triangle  slope * max(0, 1 - |u|)             Bellec et al. 2018, arXiv 1803.09574
//   3 rect      slope where |u| < 1/2, else 0       Wu et al. 2018, doi 10.3389/fnins.2018.00331
#ifndef HAD_SURROGATE_CUH
#define HAD_SURROGATE_CUH

#include "prelude.cuh"

// Values that stay the same during one launch.
struct Neuron {
  float v_reset;
  float slope;
  int surrogate;
  int soft;
  int detach;
};

HAD_INLINE lanes had_surrogate(const Neuron& k, lanes distance) {
  const lanes u = distance * k.slope;
  const lanes size = u < had_splat(0.0f) ? -u : u;
  if (k.surrogate == 0) {
    const lanes w = u * 1.57079633f;
    return (0.5f * k.slope) / (1.0f + w * w);
  }
  if (k.surrogate == 1) {
    const lanes e = had_exp(-size);  // symmetric, so the side without overflow serves both
    return k.slope * e / ((1.0f + e) * (1.0f + e));
  }
  if (k.surrogate == 2) return size < had_splat(1.0f) ? k.slope * (1.0f - size) : had_splat(0.0f);
  return size < had_splat(0.5f) ? had_splat(k.slope) : had_splat(0.0f);
}

HAD_INLINE lanes had_charge(lanes v, lanes decay, lanes input) { return decay * v + input; }

HAD_INLINE lanes had_fire(lanes h, lanes threshold) { return h > threshold ? had_splat(1.0f) : had_splat(0.0f); }

HAD_INLINE lanes had_reset(const Neuron& k, lanes h, lanes s, lanes threshold) {
  if (k.soft) return h - s * threshold;
  return h > threshold ? had_splat(k.v_reset) : h;  // not `s > 0`: a second comparison would lengthen the chain
}

// Gradient of the loss in h from the gradients in the spike `g_s`, in h itself `g_h` and in v after the reset `g_v`;
// adds the gradient in the threshold to `*g_threshold`.
HAD_INLINE lanes had_step_backward(const Neuron& k, lanes h, lanes threshold, lanes g_s, lanes g_h, lanes g_v,
                                   lanes* g_threshold) {
  const lanes s = had_fire(h, threshold);
  const lanes d = had_surrogate(k, h - threshold);
  lanes to_spike = g_s;
  if (!k.detach) to_spike = to_spike + g_v * (k.soft ? -threshold : had_splat(k.v_reset) - h);
  const lanes kept = k.soft ? g_v : (h > threshold ? had_splat(0.0f) : g_v);
  *g_threshold = *g_threshold - to_spike * d - (k.soft ? g_v * s : had_splat(0.0f));
  return to_spike * d + g_h + kept;
}

#endif
