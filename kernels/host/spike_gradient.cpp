// Gradient of a convolution's weights from the spikes that it read, as lists (see spike_conv.cpp): for training on a CPU.
//
//   g_weight[dy, dx, c, :] += value * g_out[oy, ox, :]    for each spike (c, x) in row oy * stride + dy - padding,
//                                                         at column x = ox * stride + dx - padding
//
// One tap at a time, so that its weights stay in the first cache; an output's gradient is held in registers while the
// spikes under that tap take it. Multiply-adds may be fused: nothing here decides a spike. The order of the sums is fixed,
// whatever the number of threads.
#include "../neuron/prelude.cuh"

// Spikes [N, H, W, C], g_out [N, Ho, Wo, K] channels last. Samples are shared out over `parts`, each of which has a sum of
// its own, [parts, k, k, C, Kp]: K rounded up to a multiple of 16.
struct SpikeGradient {
  const had_u16* entry;
  const int* start;
  const float* value;  // null for 1
  const float* g_out;
  float* g_weight;
  had_i64 N, H, W, C, Ho, Wo, K, Kp, k, stride, padding, parts;
  int threads;
};

// One tap of one sample, channels from c on: `GROUPS` groups of lanes, of which the last holds `tail` channels.
template <int GROUPS, bool VALUED>
static void gradient_block(const SpikeGradient& p, had_i64 b, had_i64 dy, had_i64 dx, had_i64 c, const int tail,
                           float* to) {
  for (had_i64 oy = 0; oy < p.Ho; ++oy) {
    const had_i64 y = oy * p.stride + dy - p.padding;
    if (y < 0 || y >= p.H) continue;
    const had_i64 row = b * p.H + y;
    const int* bounds = p.start + row * (p.W + 1);
    for (had_i64 ox = 0; ox < p.Wo; ++ox) {
      const had_i64 x = ox * p.stride + dx - p.padding;
      if (x < 0 || x >= p.W || bounds[x] == bounds[x + 1]) continue;
      const float* g = p.g_out + ((b * p.Ho + oy) * p.Wo + ox) * p.K + c;
      lanes held[GROUPS];
#pragma GCC unroll 8
      for (int i = 0; i < GROUPS; ++i) held[i] = had_load_f32(g + i * HAD_LANES, i == GROUPS - 1 ? tail : HAD_LANES);
      const had_u16 *e = p.entry + row * p.W * p.C + bounds[x], *stop = p.entry + row * p.W * p.C + bounds[x + 1];
      const float* value = VALUED ? p.value + row * p.W * p.C + bounds[x] : 0;
      float* base = to - x * p.C * p.Kp + c;
      for (; e < stop; ++e) {
        float* w = base + *e * p.Kp;
        const lanes times = VALUED ? had_splat(*value++) : had_splat(1.0f);
#pragma GCC unroll 8
        for (int i = 0; i < GROUPS; ++i) {
          const lanes old = had_load_f32(w + i * HAD_LANES, HAD_LANES);
          had_store_f32(w + i * HAD_LANES, VALUED ? old + times * held[i] : old + held[i], HAD_LANES);
        }
      }
    }
  }
}

template <bool VALUED>
static void gradient_of_tap(const SpikeGradient& p, had_i64 b, had_i64 dy, had_i64 dx, float* to) {
  had_i64 c = 0;
  for (; c + 6 * HAD_LANES <= p.K; c += 6 * HAD_LANES) gradient_block<6, VALUED>(p, b, dy, dx, c, HAD_LANES, to);
  for (; c + 4 * HAD_LANES <= p.K; c += 4 * HAD_LANES) gradient_block<4, VALUED>(p, b, dy, dx, c, HAD_LANES, to);
  for (; c + HAD_LANES <= p.K; c += HAD_LANES) gradient_block<1, VALUED>(p, b, dy, dx, c, HAD_LANES, to);
  if (c < p.K) gradient_block<1, VALUED>(p, b, dy, dx, c, (int)(p.K - c), to);
}

HAD_EXPORT void HAD_SYMBOL(spike_gradient)(const SpikeGradient* given) {
  const SpikeGradient p = *given;
#pragma omp parallel for schedule(static) num_threads(p.threads) if (p.threads > 1)
  for (had_i64 part = 0; part < p.parts; ++part) {
    const had_i64 size = p.C * p.Kp;
    float* to = p.g_weight + part * p.k * p.k * size;
    memset(to, 0, (size_t)(p.k * p.k * size) * sizeof(float));
    for (had_i64 b = p.N * part / p.parts; b < p.N * (part + 1) / p.parts; ++b)
      for (had_i64 tap = 0; tap < p.k * p.k; ++tap) {
        if (p.value)
          gradient_of_tap<true>(p, b, tap / p.k, tap % p.k, to + tap * size);
        else
          gradient_of_tap<false>(p, b, tap / p.k, tap % p.k, to + tap * size);
      }
  }
}
