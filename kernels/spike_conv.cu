// Convolutions whose cost follows spikes: inference only.
//
// Spikes travel as compact lists, one for each row of a map. Row (t, b, y) owns the W * C places of `entry` from
// ((t * N + b) * H + y) * W * C on; its spikes fill them in order of x and channel:
//
//   entry = x * C + c (16 bits),   start[t, b, y, x] = place of the first spike of column x, start[t, b, y, W] = their number
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
#include "surrogate.cuh"

// A convolution of spikes [T, N, H, W, C] to [T, N, Ho, Wo, K]. Weights [k, k, C, Kp]: output channels are padded with
// zeros to Kp, a multiple of 16.
struct SpikeConv {
  const had_u16* entry;
  const int* start;
  const float* value;  // what a spike counts for, beside `entry`; null for 1
  const float *weight, *bias, *current_in, *v0;
  float *current_out, *fired, *v;
  had_i64 T, N, H, W, C, Ho, Wo, K, Kp, k, stride, padding;
  float decay, threshold;
};

HAD_INLINE had_i64 had_max(had_i64 a, had_i64 b) { return a > b ? a : b; }
HAD_INLINE had_i64 had_min(had_i64 a, had_i64 b) { return a < b ? a : b; }

#if HAD_GPU

// One thread per (site, output channel), channels fastest.
HAD_KERNEL HAD_SYMBOL(spike_conv)(const had_u16* entry, const int* start, const float* value, const float* weight,
                                  const float* bias, const float* current_in, const float* v0, float* current_out,
                                  float* fired, float* v, had_i64 T, had_i64 N, had_i64 H, had_i64 W, had_i64 C,
                                  had_i64 Ho, had_i64 Wo, had_i64 K, had_i64 Kp, had_i64 k, had_i64 stride,
                                  had_i64 padding, float decay, float threshold) {
  const Neuron neuron = {0.0f, 0.0f, 0, 0, 1};
  const had_i64 total = N * Ho * Wo * K;
  for (had_i64 i = had_thread_index(); i < total; i += had_thread_count()) {
    const had_i64 c = i % K, site = i / K, ox = site % Wo, oy = site / Wo % Ho, b = site / (Wo * Ho);
    const had_i64 x0 = ox * stride - padding, y0 = oy * stride - padding;
    const had_i64 left = had_max(x0, 0), right = had_min(x0 + k, W);
    float u = v0 ? v0[i] : 0.0f;
    for (had_i64 t = 0; t < T; ++t) {
      float current = bias[c];
      if (current_in) current = current + current_in[t * total + i];
      for (had_i64 y = had_max(y0, 0); y < had_min(y0 + k, H); ++y) {
        const had_i64 row = (t * N + b) * H + y, from = row * W * C;
        const float* at = weight + (y - y0) * k * C * Kp + c;
        for (had_i64 e = start[row * (W + 1) + left]; e < start[row * (W + 1) + right]; ++e) {
          const float w = at[(entry[from + e] - x0 * C) * Kp];
          current = current + (value ? value[from + e] * w : w);
        }
      }
      if (current_out) current_out[t * total + i] = current;
      if (!fired) continue;
      const float h = had_charge(u, decay, current), s = had_fire(h, threshold);
      u = had_reset(neuron, h, s, threshold);
      fired[t * total + i] = s;
    }
    if (v) v[i] = u;
  }
}

// Lists of `rows` rows [W, C] of whole numbers, those above `most` as `most`; one thread a row.
HAD_KERNEL HAD_SYMBOL(spike_list)(const float* dense, had_u16* entry, int* start, float* value, had_i64 rows,
                                  had_i64 W, had_i64 C, float most) {
  for (had_i64 row = had_thread_index(); row < rows; row += had_thread_count()) {
    const float* from = dense + row * W * C;
    int n = 0;
    for (had_i64 i = 0; i < W * C; ++i) {
      if (i % C == 0) start[row * (W + 1) + i / C] = n;
      if (from[i] == 0.0f) continue;
      if (value) value[row * W * C + n] = from[i] < most ? from[i] : most;
      entry[row * W * C + n++] = (had_u16)i;
    }
    start[row * (W + 1) + W] = n;
  }
}

// Depth-wise correlation: each sample of spikes [T, N, H, W, C], given as 0 and 1, with its kernel [N, k, k, C].
HAD_KERNEL HAD_SYMBOL(spike_correlate)(const float* fired, const int* start, const float* kernel, float* out, had_i64 T,
                                       had_i64 N, had_i64 H, had_i64 W, had_i64 C, had_i64 k) {
  const had_i64 total = T * N * H * W * C, half = k / 2;
  for (had_i64 i = had_thread_index(); i < total; i += had_thread_count()) {
    const had_i64 c = i % C, x = i / C % W, row = i / (C * W), y = row % H, first = row - y, b = row / H % N;
    float sum = 0.0f;
    for (had_i64 dy = had_max(half - y, 0); dy < had_min(k, H + half - y); ++dy)
      for (had_i64 dx = had_max(half - x, 0); dx < had_min(k, W + half - x); ++dx) {
        const had_i64 at = (first + y + dy - half) * W + x + dx - half;
        sum = sum + fired[at * C + c] * kernel[((b * k + dy) * k + dx) * C + c];
      }
    out[i] = sum;
  }
}

#else

#include "spike_conv_host.cuh"

#endif
