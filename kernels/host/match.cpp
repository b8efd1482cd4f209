// Depth-wise correlation with a kernel for each sample and channel, and its gradients, for training on a CPU: channels last,
// channels in lanes.
//
//   out[t, n, y, x, c] = sum over dy, dx of kernel[n, dy, dx, c] * maps[t, n, y + dy - half, x + dx - half, c]
//
// The gradient of the maps is the same with the kernel turned round. Multiply-adds may be fused.
#include "../neuron/prelude.cuh"

// Maps [T, N, H, W, C], kernels [N, k, k, C] with an odd k.
struct Match {
  const float *maps, *kernel, *g_out;
  float *out, *g_kernel;
  had_i64 T, N, C, H, W, k;
  int turned, threads;
};

HAD_INLINE had_i64 lower(had_i64 a, had_i64 b) { return a < b ? a : b; }
HAD_INLINE had_i64 upper(had_i64 a, had_i64 b) { return a > b ? a : b; }

template <int GROUPS>
static void match_block(const Match& p, const float* maps, const float* kernel, float* out, had_i64 c, const int tail) {
  const had_i64 half = p.k / 2, last = p.k * p.k - 1;
  for (had_i64 y = 0; y < p.H; ++y)
    for (had_i64 x = 0; x < p.W; ++x) {
      lanes sum[GROUPS];
      for (int g = 0; g < GROUPS; ++g) sum[g] = had_splat(0.0f);
      for (had_i64 dy = upper(half - y, 0); dy < lower(p.k, p.H + half - y); ++dy)
        for (had_i64 dx = upper(half - x, 0); dx < lower(p.k, p.W + half - x); ++dx) {
          const had_i64 tap = dy * p.k + dx;
          const float* s = maps + ((y + dy - half) * p.W + x + dx - half) * p.C + c;
          const float* w = kernel + (p.turned ? last - tap : tap) * p.C + c;
#pragma GCC unroll 6
          for (int g = 0; g < GROUPS; ++g) {
            const int count = g == GROUPS - 1 ? tail : HAD_LANES;
            sum[g] = sum[g] + had_load_f32(s + g * HAD_LANES, count) * had_load_f32(w + g * HAD_LANES, count);
          }
        }
      for (int g = 0; g < GROUPS; ++g)
        had_store_f32(out + (y * p.W + x) * p.C + c + g * HAD_LANES, sum[g], g == GROUPS - 1 ? tail : HAD_LANES);
    }
}

HAD_EXPORT void HAD_SYMBOL(match)(const Match* given) {
  const Match p = *given;
#pragma omp parallel for schedule(static) num_threads(p.threads) if (p.threads > 1)
  for (had_i64 map = 0; map < p.T * p.N; ++map) {
    const had_i64 at = map * p.H * p.W * p.C;
    const float *maps = p.maps + at, *kernel = p.kernel + map % p.N * p.k * p.k * p.C;
    had_i64 c = 0;
    for (; c + 6 * HAD_LANES <= p.C; c += 6 * HAD_LANES) match_block<6>(p, maps, kernel, p.out + at, c, HAD_LANES);
    for (; c + HAD_LANES <= p.C; c += HAD_LANES) match_block<1>(p, maps, kernel, p.out + at, c, HAD_LANES);
    if (c < p.C) match_block<1>(p, maps, kernel, p.out + at, c, (int)(p.C - c));
  }
}

template <int GROUPS>
static void kernel_block(const Match& p, had_i64 n, had_i64 dy, had_i64 dx, had_i64 c, const int tail) {
  const had_i64 half = p.k / 2, up = dy - half, left = dx - half;
  lanes sum[GROUPS];
  for (int g = 0; g < GROUPS; ++g) sum[g] = had_splat(0.0f);
  for (had_i64 t = 0; t < p.T; ++t)
    for (had_i64 y = upper(-up, 0); y < lower(p.H, p.H - up); ++y)
      for (had_i64 x = upper(-left, 0); x < lower(p.W, p.W - left); ++x) {
        const had_i64 map = (t * p.N + n) * p.H;
        const float *s = p.maps + ((map + y + up) * p.W + x + left) * p.C + c, *o = p.g_out + ((map + y) * p.W + x) * p.C + c;
#pragma GCC unroll 6
        for (int g = 0; g < GROUPS; ++g) {
          const int count = g == GROUPS - 1 ? tail : HAD_LANES;
          sum[g] = sum[g] + had_load_f32(s + g * HAD_LANES, count) * had_load_f32(o + g * HAD_LANES, count);
        }
      }
  float* to = p.g_kernel + ((n * p.k + dy) * p.k + dx) * p.C + c;
  for (int g = 0; g < GROUPS; ++g) had_store_f32(to + g * HAD_LANES, sum[g], g == GROUPS - 1 ? tail : HAD_LANES);
}

HAD_EXPORT void HAD_SYMBOL(match_kernel_gradient)(const Match* given) {
  const Match p = *given;
#pragma omp parallel for schedule(static) num_threads(p.threads) if (p.threads > 1)
  for (had_i64 tap = 0; tap < p.N * p.k * p.k; ++tap) {
    const had_i64 n = tap / (p.k * p.k), dy = tap / p.k % p.k, dx = tap % p.k;
    had_i64 c = 0;
    for (; c + 6 * HAD_LANES <= p.C; c += 6 * HAD_LANES) kernel_block<6>(p, n, dy, dx, c, HAD_LANES);
    for (; c + HAD_LANES <= p.C; c += HAD_LANES) kernel_block<1>(p, n, dy, dx, c, HAD_LANES);
    if (c < p.C) kernel_block<1>(p, n, dy, dx, c, (int)(p.C - c));
  }
}
