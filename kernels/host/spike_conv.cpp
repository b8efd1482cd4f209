// Convolutions whose cost follows spikes, on a CPU: with neurons for inference, alone for training. Rows of outputs over
// threads, channels in lanes, a block of channels in registers.
//
// Spikes travel as compact lists, one for each row of a map. Row (t, b, y) owns the W * C places of `entry` from
// ((t * N + b) * H + y) * W * C on; its spikes fill them in order of x and channel:
//
//   entry = x * C + c (16 bits),   start[t, b, y, x] = place of the first spike of column x
//                                start[t, b, y, W] = their number
//
// The k columns that a kernel covers in one row are neighbours in its list, and with weights in the order [dy, dx, c] the
// weights that belong to a spike lie at (entry - x0 * C) behind those of (dy, dx = 0, c = 0). So an output is the sum over k
// short runs of weights, channels in lanes, and the LIF step follows while the sum is still in registers:
//
//   current[t] = bias + current_in[t] + sum of weights (times value) of the spikes in reach
//   h = decay * v + current;  s = h > threshold;  v = s ? 0 : h
//
// The order of the sum is that of a dense convolution over (dy, dx, c) without its zeros. With weights on a grid of 2^-q,
// few enough bits wide, sums need no rounding and are those of any dense convolution, whatever its order.
#include "../neuron/surrogate.cuh"

#include <stdlib.h>

// A convolution of spikes [T, N, H, W, C] to [T, N, Ho, Wo, K]. Weights [k, k, C, Kp]: output channels are padded with
// zeros to Kp, a multiple of 16. `entry_out` [T, N, Ho, Wo * K] and `start_out` [T, N, Ho, Wo + 1] take the neurons'
// spikes, or are null: then only currents are written.
struct SpikeConv {
  const had_u16* entry;
  const int* start;
  const float* value;  // what a spike counts for, beside `entry`; null for 1
  const float *weight, *bias, *current_in, *v0;
  float *current_out, *fired, *v;
  had_u16* entry_out;
  int* start_out;
  had_i64 T, N, H, W, C, Ho, Wo, K, Kp, k, stride, padding;
  float decay, threshold;
  int threads;
};

// `rows` rows [W, C] of whole numbers, those above `most` as `most`.
struct SpikeListing {
  const float* dense;
  had_u16* entry;
  int* start;
  float* value;
  had_i64 rows, W, C;
  float most;
  int threads;
};

// Depth-wise: each sample of spikes [T, N, H, W, C], given as 0 and 1, with its kernel [N, k, k, C].
struct SpikeCorrelation {
  const float* fired;
  const int* start;
  const float* kernel;
  float* out;
  had_i64 T, N, H, W, C, k;
  int threads;
};

HAD_INLINE had_i64 had_max(had_i64 a, had_i64 b) { return a > b ? a : b; }
HAD_INLINE had_i64 had_min(had_i64 a, had_i64 b) { return a < b ? a : b; }

// Groups of lanes whose sums are held at once; a CPU without AVX-512 has 16 registers.
#define HAD_HELD_GROUPS 8

// One bit for each lane of a comparison's result.
template <class Mask>
HAD_INLINE unsigned mask_bits(Mask mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)mask);
#elif defined(__AVX__)
  return (unsigned)_mm256_movemask_ps((__m256)mask);
#elif defined(__SSE2__)
  return (unsigned)_mm_movemask_ps((__m128)mask);
#else
  unsigned bits = 0;
  for (int i = 0; i < HAD_LANES; ++i) bits |= (unsigned)(mask[i] != 0) << i;
  return bits;
#endif
}

HAD_INLINE had_i64 lane_groups(const SpikeConv* p) { return (p->K + HAD_LANES - 1) / HAD_LANES; }

// Appends the numbers first + i of the set bits i.
HAD_INLINE int append_bits(had_u16* list, int n, unsigned bits, had_i64 first) {
  for (; bits; bits &= bits - 1) list[n++] = (had_u16)(first + __builtin_ctz(bits));
  return n;
}

#if HAD_LANES >= 8
typedef had_u16 eight __attribute__((vector_size(16)));

namespace {
// The places of the set bits of each byte, in order. A constant of the file: nothing of a width that the processor may not
// have runs when the library is loaded.
struct SetBits {
  alignas(16) had_u16 places[256][8];
  constexpr SetBits() : places() {
    for (unsigned byte = 0; byte < 256; ++byte)
      for (unsigned bits = byte, n = 0; bits; bits &= bits - 1) places[byte][n++] = (had_u16)__builtin_ctz(bits);
  }
};
constexpr SetBits set_bits;
}  // namespace
#endif

// `append_bits` for a whole group of lanes, without a branch: what is written behind the last number means nothing, and
// stays within the places of the group's own neurons.
HAD_INLINE int append_group(had_u16* list, int n, unsigned bits, had_i64 first) {
#if HAD_LANES >= 8
  for (int lane = 0; lane < HAD_LANES; lane += 8, bits >>= 8) {
    eight numbers;
    memcpy(&numbers, set_bits.places[bits & 255u], sizeof numbers);
    numbers += (had_u16)(first + lane);
    memcpy(list + n, &numbers, sizeof numbers);
    n += __builtin_popcount(bits & 255u);
  }
  return n;
#else
  return append_bits(list, n, bits, first);
#endif
}

// One site, channels from c on: `GROUPS` groups of lanes, of which the last holds `tail` channels. `fired_bits`
// [T, Wo, all groups] takes one word for each group of lanes; null where there are no neurons.
template <int GROUPS, bool VALUED>
static void conv_block(const SpikeConv* p, unsigned* fired_bits, had_i64 b, had_i64 oy, had_i64 ox, had_i64 c,
                       const int tail) {
  const Neuron neuron = {0.0f, 0.0f, 0, 0, 1};
  const had_i64 x0 = ox * p->stride - p->padding, y0 = oy * p->stride - p->padding, W = p->W, C = p->C, Kp = p->Kp;
  const had_i64 left = had_max(x0, 0), right = had_min(x0 + p->k, W);
  const had_i64 top = had_max(y0, 0), bottom = had_min(y0 + p->k, p->H);
  const had_i64 sites = p->N * p->Ho * p->Wo, site = (b * p->Ho + oy) * p->Wo + ox;
  const lanes decay = had_splat(p->decay), threshold = had_splat(p->threshold);
  lanes bias[GROUPS], u[GROUPS];
  for (int g = 0; g < GROUPS; ++g) {
    const int count = g == GROUPS - 1 ? tail : HAD_LANES;
    bias[g] = had_load_f32(p->bias + c + g * HAD_LANES, count);
    u[g] = p->v0 ? had_load_f32(p->v0 + site * p->K + c + g * HAD_LANES, count) : had_splat(0.0f);
  }
  for (had_i64 t = 0; t < p->T; ++t) {
    const had_i64 out = (t * sites + site) * p->K + c;
    lanes sum[GROUPS];
    for (int g = 0; g < GROUPS; ++g) sum[g] = bias[g];
    if (p->current_in)
      for (int g = 0; g < GROUPS; ++g)
        sum[g] = sum[g] + had_load_f32(p->current_in + out + g * HAD_LANES, g == GROUPS - 1 ? tail : HAD_LANES);
    for (had_i64 y = top; y < bottom; ++y) {
      const had_i64 row = (t * p->N + b) * p->H + y;
      const int* bounds = p->start + row * (W + 1);
      const had_u16 *e = p->entry + row * W * C + bounds[left], *stop = p->entry + row * W * C + bounds[right];
      const float* value = VALUED ? p->value + row * W * C + bounds[left] : 0;
      const float* weight = p->weight + ((y - y0) * p->k - x0) * C * Kp + c;
      for (; e < stop; ++e) {
        const float* w = weight + *e * Kp;
        if (VALUED) {
          const lanes times = had_splat(*value++);
#pragma GCC unroll 8
          for (int g = 0; g < GROUPS; ++g) sum[g] = sum[g] + times * had_load_f32(w + g * HAD_LANES, HAD_LANES);
        } else {
#pragma GCC unroll 8
          for (int g = 0; g < GROUPS; ++g) sum[g] = sum[g] + had_load_f32(w + g * HAD_LANES, HAD_LANES);
        }
      }
    }
    if (p->current_out)
      for (int g = 0; g < GROUPS; ++g)
        had_store_f32(p->current_out + out + g * HAD_LANES, sum[g], g == GROUPS - 1 ? tail : HAD_LANES);
    if (!fired_bits) continue;
    unsigned* bits = fired_bits + (t * p->Wo + ox) * lane_groups(p) + c / HAD_LANES;
    for (int g = 0; g < GROUPS; ++g) {
      const int count = g == GROUPS - 1 ? tail : HAD_LANES;
      const lanes h = had_charge(u[g], decay, sum[g]), s = had_fire(h, threshold);
      u[g] = had_reset(neuron, h, s, threshold);
      if (p->fired) had_store_f32(p->fired + out + g * HAD_LANES, s, count);
      bits[g] = mask_bits(h > threshold) & (count == HAD_LANES ? ~0u : (1u << count) - 1u);
    }
  }
  if (p->v)
    for (int g = 0; g < GROUPS; ++g)
      had_store_f32(p->v + site * p->K + c + g * HAD_LANES, u[g], g == GROUPS - 1 ? tail : HAD_LANES);
}

// One row. Blocks of channels go outside, so that the weights of one block stay in the cache for the whole row.
template <bool VALUED>
static void conv_row(const SpikeConv* p, unsigned* bits, had_i64 b, had_i64 oy) {
  for (had_i64 c = 0; c < p->K; c += HAD_HELD_GROUPS * HAD_LANES) {
    const int rest = (int)had_min(p->K - c, HAD_HELD_GROUPS * HAD_LANES);
    const int groups = (rest + HAD_LANES - 1) / HAD_LANES, tail = rest - (groups - 1) * HAD_LANES;
    for (had_i64 ox = 0; ox < p->Wo; ++ox) switch (groups) {
        case 1: conv_block<1, VALUED>(p, bits, b, oy, ox, c, tail); break;
        case 2: conv_block<2, VALUED>(p, bits, b, oy, ox, c, tail); break;
        case 3: conv_block<3, VALUED>(p, bits, b, oy, ox, c, tail); break;
        case 4: conv_block<4, VALUED>(p, bits, b, oy, ox, c, tail); break;
        case 5: conv_block<5, VALUED>(p, bits, b, oy, ox, c, tail); break;
        case 6: conv_block<6, VALUED>(p, bits, b, oy, ox, c, tail); break;
        case 7: conv_block<7, VALUED>(p, bits, b, oy, ox, c, tail); break;
        default: conv_block<8, VALUED>(p, bits, b, oy, ox, c, tail);
      }
  }
}

// Returns the number of spikes, or -1 where scratch memory could not be had.
HAD_EXPORT had_i64 HAD_SYMBOL(spike_conv)(const SpikeConv* given) {
  const SpikeConv p = *given;
  const had_i64 Wo = p.Wo, K = p.K;
  had_i64 total = 0;
  int failed = 0;
#pragma omp parallel for schedule(dynamic, 1) num_threads(p.threads) if (p.threads > 1) \
    reduction(+ : total) reduction(| : failed)
  for (had_i64 row = 0; row < p.N * p.Ho; ++row) {
    const had_i64 b = row / p.Ho, oy = row % p.Ho, groups = lane_groups(&p);
    unsigned* bits = p.entry_out ? (unsigned*)malloc((size_t)(p.T * Wo * groups) * sizeof(unsigned)) : 0;
    if (p.entry_out && !bits) {
      failed = 1;
      continue;
    }
    if (p.value)
      conv_row<true>(&p, bits, b, oy);
    else
      conv_row<false>(&p, bits, b, oy);
    for (had_i64 t = 0; t < p.T && bits; ++t) {
      const had_i64 out = (t * p.N + b) * p.Ho + oy;
      had_u16* list = p.entry_out + out * Wo * K;
      int* start = p.start_out + out * (Wo + 1);
      int n = 0;
      for (had_i64 ox = 0; ox < Wo; ++ox) {
        start[ox] = n;
        const unsigned* fired = bits + (t * Wo + ox) * groups;
        const had_i64 whole = K / HAD_LANES;
        for (had_i64 g = 0; g < whole; ++g) n = append_group(list, n, fired[g], ox * K + g * HAD_LANES);
        if (whole < groups) n = append_bits(list, n, fired[whole], ox * K + whole * HAD_LANES);
      }
      start[Wo] = n;
      total += n;
    }
    free(bits);
  }
  return failed ? -1 : total;
}

// Appends the spikes of channels c on of column x.
HAD_INLINE int list_group(const SpikeListing& p, had_i64 row, had_i64 x, had_i64 c, const int count, int n) {
  const had_i64 at = row * p.W * p.C;
  had_u16* list = p.entry + at;
  const int before = n;
  const unsigned bits = mask_bits(had_load_f32(p.dense + at + x * p.C + c, count) != had_splat(0.0f));
  n = count == HAD_LANES ? append_group(list, n, bits, x * p.C + c)
                         : append_bits(list, n, bits & ((1u << count) - 1u), x * p.C + c);
  if (p.value)
    for (int i = before; i < n; ++i) {
      const float size = p.dense[at + list[i]];
      p.value[at + i] = size < p.most ? size : p.most;
    }
  return n;
}

// Returns the number of entries.
HAD_EXPORT had_i64 HAD_SYMBOL(spike_list)(const SpikeListing* given) {
  const SpikeListing p = *given;
  had_i64 total = 0;
#pragma omp parallel for schedule(static) num_threads(p.threads) if (p.threads > 1) reduction(+ : total)
  for (had_i64 row = 0; row < p.rows; ++row) {
    int *start = p.start + row * (p.W + 1), n = 0;
    for (had_i64 x = 0; x < p.W; ++x) {
      start[x] = n;
      had_i64 c = 0;
      for (; c + HAD_LANES <= p.C; c += HAD_LANES) n = list_group(p, row, x, c, HAD_LANES, n);
      if (c < p.C) n = list_group(p, row, x, c, (int)(p.C - c), n);
    }
    start[p.W] = n;
    total += n;
  }
  return total;
}

// Columns without a spike are skipped.
HAD_INLINE void correlate_block(const float* fired, const int* start, const float* kernel, float* out, had_i64 y,
                                had_i64 x, had_i64 H, had_i64 W, had_i64 C, had_i64 k, had_i64 c, const int groups,
                                const int tail) {
  const had_i64 half = k / 2;
  lanes sum[4];
  for (int g = 0; g < groups; ++g) sum[g] = had_splat(0.0f);
  for (had_i64 dy = had_max(half - y, 0); dy < had_min(k, H + half - y); ++dy) {
    const had_i64 row = y + dy - half;
    for (had_i64 dx = had_max(half - x, 0); dx < had_min(k, W + half - x); ++dx) {
      const had_i64 column = x + dx - half;
      if (start[row * (W + 1) + column] == start[row * (W + 1) + column + 1]) continue;
      const float *s = fired + (row * W + column) * C + c, *w = kernel + (dy * k + dx) * C + c;
      for (int g = 0; g < groups; ++g) {
        const int count = g == groups - 1 ? tail : HAD_LANES;
        sum[g] = sum[g] + had_load_f32(s + g * HAD_LANES, count) * had_load_f32(w + g * HAD_LANES, count);
      }
    }
  }
  for (int g = 0; g < groups; ++g)
    had_store_f32(out + (y * W + x) * C + c + g * HAD_LANES, sum[g], g == groups - 1 ? tail : HAD_LANES);
}

HAD_EXPORT void HAD_SYMBOL(spike_correlate)(const SpikeCorrelation* given) {
  const SpikeCorrelation p = *given;
  const had_i64 H = p.H, W = p.W, C = p.C, k = p.k;
#pragma omp parallel for schedule(static) num_threads(p.threads) if (p.threads > 1)
  for (had_i64 row = 0; row < p.T * p.N * H; ++row) {
    const had_i64 map = row / H, y = row % H;
    const float *spikes = p.fired + map * H * W * C, *w = p.kernel + map % p.N * k * k * C;
    const int* bounds = p.start + map * H * (W + 1);
    float* to = p.out + map * H * W * C;
    for (had_i64 x = 0; x < W; ++x) {
      had_i64 c = 0;
      for (; c + 4 * HAD_LANES <= C; c += 4 * HAD_LANES)
        correlate_block(spikes, bounds, w, to, y, x, H, W, C, k, c, 4, HAD_LANES);
      for (; c + HAD_LANES <= C; c += HAD_LANES)
        correlate_block(spikes, bounds, w, to, y, x, H, W, C, k, c, 1, HAD_LANES);
      if (c < C) correlate_block(spikes, bounds, w, to, y, x, H, W, C, k, c, 1, (int)(C - c));
    }
  }
}
