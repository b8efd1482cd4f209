// Gradient of a convolution's weights from the spikes that it read: for training on a CPU.
//
//   g_weight[dy, dx, c, :] = sum of value * g_out[oy, ox, :] over the spikes of channel c at
//                            y = oy * stride + dy - padding, x = ox * stride + dx - padding
//
// Spikes are listed by channel, so that the sums of a channel and a row of taps stay in registers while its spikes go by: one
// load and one addition each, where sums in memory take a load and a store besides. A sample's g_out lies in the first
// cache, a block of channels at a time, with zeros around it, which spares the question where the map ends. With a stride,
// spikes whose taps differ have lists of their own. Multiply-adds may be fused: nothing here decides a spike. The order of
// the sums is fixed, whatever the number of threads.
#include "../neuron/prelude.cuh"

#include <stdlib.h>

// Spikes [N, H, W, C], g_out [N, Ho, Wo, K], channels last. Samples are shared out over `parts`, each of which has a sum of
// its own, [parts, k, k, C, Kp]: K rounded up to a multiple of 16.
struct SpikeGradient {
  const had_u8* fired;  // 0 or 1; null where `count` holds what each neuron counts for
  const float* count;
  const float* g_out;
  float* g_weight;
  had_i64 N, H, W, C, Ho, Wo, K, Kp, k, stride, padding, parts;
  int threads;
};

namespace {

// Lists of spikes and a padded g_out of one sample. Places are those of the output cell that the first tap of a list belongs
// to, in numbers of a block of g_out, [cells, width].
struct Sample {
  had_i64 lead, rows, columns, width, most;  // cells of zeros before a map; its cells with those; places of one list
  float *padded, *value;
  unsigned *place, *number;
};

Sample sample_for(const SpikeGradient& p) {
  Sample to = {};
  const had_i64 groups = p.Kp / HAD_LANES;
  to.width = HAD_LANES * (groups % 3 == 0 ? 3 : groups % 2 == 0 ? 2 : 1);
  to.lead = (p.k - 1) / p.stride;
  to.rows = (p.H - 1 + p.padding) / p.stride + 1 + to.lead;
  to.columns = (p.W - 1 + p.padding) / p.stride + 1 + to.lead;
  to.most = ((p.H - 1) / p.stride + 1) * ((p.W - 1) / p.stride + 1);
  const size_t lists = (size_t)(p.C * p.stride * p.stride), places = lists * (size_t)to.most;
  const size_t padded = (size_t)(to.rows * to.columns * p.Kp) * sizeof(float);
  to.padded = (float*)aligned_alloc(64, padded);  // no load crosses a cache line
  if (to.padded) memset(to.padded, 0, padded);
  to.place = (unsigned*)malloc(places * sizeof(unsigned));
  to.number = (unsigned*)malloc(lists * sizeof(unsigned));
  to.value = p.count ? (float*)malloc(places * sizeof(float)) : 0;
  return to;
}

void release(const Sample& sample) {
  free(sample.padded);
  free(sample.place);
  free(sample.number);
  free(sample.value);
}

bool complete(const SpikeGradient& p, const Sample& sample) {
  return sample.padded && sample.place && sample.number && (sample.value || !p.count);
}

template <int GROUPS>
void pad(const SpikeGradient& p, const Sample& to, had_i64 b) {
  const int width = GROUPS * HAD_LANES;
  for (had_i64 k = 0; k < p.K; k += width) {
    const had_i64 rest = p.K - k;
    float* block = to.padded + k * to.rows * to.columns;
    for (had_i64 y = 0; y < p.Ho; ++y) {
      float* cell = block + ((y + to.lead) * to.columns + to.lead) * width;
      const float* g = p.g_out + (b * p.Ho + y) * p.Wo * p.K + k;
      for (had_i64 x = 0; x < p.Wo; ++x, cell += width, g += p.K)
        if (rest >= width)
          for (int i = 0; i < width; i += HAD_LANES) had_store_f32(cell + i, had_load_f32(g + i, HAD_LANES), HAD_LANES);
        else
          memcpy(cell, g, (size_t)rest * sizeof(float));
    }
  }
}

HAD_INLINE void append(const Sample& to, had_i64 list, had_i64 place, float value) {
  const had_i64 at = list * to.most + to.number[list]++;
  to.place[at] = (unsigned)place;
  if (to.value) to.value[at] = value;
}

void list_by_channel(const SpikeGradient& p, const Sample& to, had_i64 b) {
  memset(to.number, 0, (size_t)(p.C * p.stride * p.stride) * sizeof(unsigned));
  for (had_i64 y = 0; y < p.H; ++y)
    for (had_i64 x = 0; x < p.W; ++x) {
      const had_i64 cell = ((b * p.H + y) * p.W + x) * p.C, up = y + p.padding, left = x + p.padding;
      const had_i64 first = (up % p.stride * p.stride + left % p.stride) * p.C;
      const had_i64 place = (up / p.stride * to.columns + left / p.stride) * to.width;
      had_i64 c = 0;
      for (; p.fired && c + 8 <= p.C; c += 8) {  // eight neurons at a glance: most rest
        had_u64 eight;
        memcpy(&eight, p.fired + cell + c, sizeof eight);
        for (; eight; eight &= eight - 1) append(to, first + c + __builtin_ctzll(eight) / 8, place, 1.0f);
      }
      for (; c < p.C; ++c) {
        const float value = p.fired ? p.fired[cell + c] : p.count[cell + c];
        if (value != 0.0f) append(to, first + c, place, value);
      }
    }
}

// Adds the sums of neighbouring taps over a list: one tap's cells lie a cell before those of the tap to its left.
template <int TAPS, int GROUPS, bool VALUED>
HAD_INLINE void add_list(const float* padded, const unsigned* place, const float* value, unsigned number, float* to,
                         had_i64 to_next) {
  const int width = GROUPS * HAD_LANES;
  lanes sum[TAPS][GROUPS];
  for (int tap = 0; tap < TAPS; ++tap)
    for (int i = 0; i < GROUPS; ++i) sum[tap][i] = had_load_f32(to + tap * to_next + i * HAD_LANES, HAD_LANES);
  for (unsigned n = 0; n < number; ++n) {
    const float* g = padded + place[n];
    const lanes times = had_splat(VALUED ? value[n] : 1.0f);
#pragma GCC unroll 3
    for (int tap = 0; tap < TAPS; ++tap)
#pragma GCC unroll 3
      for (int i = 0; i < GROUPS; ++i) {
        const lanes one = had_load_f32(g - tap * width + i * HAD_LANES, HAD_LANES);
        sum[tap][i] = VALUED ? sum[tap][i] + times * one : sum[tap][i] + one;
      }
  }
  for (int tap = 0; tap < TAPS; ++tap)
    for (int i = 0; i < GROUPS; ++i) had_store_f32(to + tap * to_next + i * HAD_LANES, sum[tap][i], HAD_LANES);
}

// All taps that the spikes of one list have, for one block of output channels.
template <int GROUPS, bool VALUED>
void add_taps(const SpikeGradient& p, const Sample& sample, had_i64 k, had_i64 dy0, had_i64 dx0, had_i64 c, float* to) {
  const had_i64 list = (dy0 * p.stride + dx0) * p.C + c, next = p.stride * p.C * p.Kp;
  const unsigned *place = sample.place + list * sample.most, number = sample.number[list];
  const float* value = VALUED ? sample.value + list * sample.most : 0;
  if (!number) return;
  for (had_i64 dy = dy0; dy < p.k; dy += p.stride) {
    const float* row = sample.padded + k * sample.rows * sample.columns +
                       ((sample.lead - dy / p.stride) * sample.columns + sample.lead) * sample.width;
    float* sum = to + ((dy * p.k + dx0) * p.C + c) * p.Kp + k;
    had_i64 taps = (p.k - 1 - dx0) / p.stride + 1;
    for (; taps >= 3; taps -= 3, row -= 3 * sample.width, sum += 3 * next)
      add_list<3, GROUPS, VALUED>(row, place, value, number, sum, next);
    if (taps == 2) add_list<2, GROUPS, VALUED>(row, place, value, number, sum, next);
    if (taps == 1) add_list<1, GROUPS, VALUED>(row, place, value, number, sum, next);
  }
}

template <int GROUPS, bool VALUED>
void add_sample(const SpikeGradient& p, const Sample& sample, had_i64 b, float* to) {
  pad<GROUPS>(p, sample, b);
  list_by_channel(p, sample, b);
  for (had_i64 k = 0; k < p.Kp; k += sample.width)
    for (had_i64 c = 0; c < p.C; ++c)
      for (had_i64 dy = 0; dy < p.stride && dy < p.k; ++dy)
        for (had_i64 dx = 0; dx < p.stride && dx < p.k; ++dx) add_taps<GROUPS, VALUED>(p, sample, k, dy, dx, c, to);
}

template <bool VALUED>
void add_of_width(const SpikeGradient& p, const Sample& sample, had_i64 b, float* to) {
  switch (sample.width / HAD_LANES) {
    case 3: return add_sample<3, VALUED>(p, sample, b, to);
    case 2: return add_sample<2, VALUED>(p, sample, b, to);
    default: return add_sample<1, VALUED>(p, sample, b, to);
  }
}

}  // namespace

// Returns 0, or -1 where scratch memory could not be had.
HAD_EXPORT had_i64 HAD_SYMBOL(spike_gradient)(const SpikeGradient* given) {
  const SpikeGradient p = *given;
  int failed = 0;
#pragma omp parallel for schedule(static) num_threads(p.threads) if (p.threads > 1) reduction(| : failed)
  for (had_i64 part = 0; part < p.parts; ++part) {
    const had_i64 size = p.k * p.k * p.C * p.Kp;
    float* to = p.g_weight + part * size;
    memset(to, 0, (size_t)size * sizeof(float));
    const Sample sample = sample_for(p);
    failed |= !complete(p, sample);
    for (had_i64 b = p.N * part / p.parts; b < p.N * (part + 1) / p.parts && complete(p, sample); ++b) {
      if (p.count)
        add_of_width<true>(p, sample, b, to);
      else
        add_of_width<false>(p, sample, b, to);
    }
    release(sample);
  }
  return failed ? -1 : 0;
}
