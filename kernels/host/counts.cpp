// What a profiler needs of spike trains, in one pass over them (host only): how many spikes there are, how many synapses
// they reach, and how often each neuron fired. Threads share the trains among them.
//
// Spikes are whole numbers >= 0 stored as float32, an image of C channels and P positions for each micro-step and sample,
// either [T, N, C, P] or, with `channels_last`, [T, N, P, C]. All sums are integers, so their order does not matter.
#include "../neuron/prelude.cuh"

#include <stdlib.h>

struct SpikeTrain {
  const float* x;
  const int* reach;  // [K, P] synapses that leave a position, for each of K layers that read the train
  int* running;      // [C * P] spikes of each neuron, added to what is there; null where not wanted
  had_i64* table;    // [T, N, 2 + 2 * K] spikes, neurons that fired; then for each layer the synapses of both
  had_i64 T, N, C, P, K;
  had_i64 kind;  // 0 spikes (0 or 1), 1 counts, 2 real numbers: what is not zero is counted
  had_i64 channels_last;
};

HAD_INLINE int fired(int v) { return v != 0; }

// One image whose positions are contiguous: `map` and `alive` [P] receive the sums over channels.
HAD_INLINE void add_planes(const float* x, had_i64 C, had_i64 P, int* map, int* alive, int* running, const int graded) {
  for (had_i64 c = 0; c < C; ++c) {
    const float* row = x + c * P;
    if (running)
      for (had_i64 p = 0; p < P; ++p) running[c * P + p] += (int)row[p];
    for (had_i64 p = 0; p < P; ++p) map[p] += (int)row[p];
    if (graded)
      for (had_i64 p = 0; p < P; ++p) alive[p] += fired((int)row[p]);
  }
}

// One image whose channels are contiguous.
HAD_INLINE void add_pixels(const float* x, had_i64 C, had_i64 P, int* map, int* alive, int* running, const int graded) {
  for (had_i64 p = 0; p < P; ++p) {
    const float* row = x + p * C;
    int total = 0, count = 0;
    if (running) {
      int* to = running + p * C;
      for (had_i64 c = 0; c < C; ++c) {
        to[c] += (int)row[c];
        total += (int)row[c];
      }
    } else {
      for (had_i64 c = 0; c < C; ++c) total += (int)row[c];
    }
    if (graded)
      for (had_i64 c = 0; c < C; ++c) count += fired((int)row[c]);
    map[p] += total;
    if (graded) alive[p] += count;
  }
}

// Real numbers: only how many are not zero.
HAD_INLINE void add_nonzero(const float* x, had_i64 C, had_i64 P, int* map, const int channels_last) {
  if (channels_last) {
    for (had_i64 p = 0; p < P; ++p) {
      int count = 0;
      for (had_i64 c = 0; c < C; ++c) count += x[p * C + c] != 0.0f;
      map[p] += count;
    }
  } else {
    for (had_i64 c = 0; c < C; ++c)
      for (had_i64 p = 0; p < P; ++p) map[p] += x[c * P + p] != 0.0f;
  }
}

HAD_INLINE had_i64 dot(const int* a, const int* b, had_i64 n) {
  had_i64 sum = 0;
  for (had_i64 i = 0; i < n; ++i) sum += (had_i64)a[i] * b[i];
  return sum;
}

static int count_train(const SpikeTrain t) {
  int* map = (int*)malloc((size_t)(2 * t.P + 1) * sizeof(int));
  if (!map) return 1;
  int* alive = t.kind == 1 ? map + t.P : map;
  for (had_i64 image = 0; image < t.T * t.N; ++image) {
    const float* at = t.x + image * t.C * t.P;
    memset(map, 0, (size_t)(2 * t.P) * sizeof(int));
    if (t.kind == 2)
      add_nonzero(at, t.C, t.P, map, (int)t.channels_last);
    else if (t.channels_last && t.kind == 1)
      add_pixels(at, t.C, t.P, map, alive, t.running, 1);
    else if (t.channels_last)
      add_pixels(at, t.C, t.P, map, alive, t.running, 0);
    else if (t.kind == 1)
      add_planes(at, t.C, t.P, map, alive, t.running, 1);
    else
      add_planes(at, t.C, t.P, map, alive, t.running, 0);
    had_i64* row = t.table + image * (2 + 2 * t.K);
    row[0] = row[1] = 0;
    for (had_i64 p = 0; p < t.P; ++p) {
      row[0] += map[p];
      row[1] += alive[p];
    }
    for (had_i64 k = 0; k < t.K; ++k) {
      row[2 + 2 * k] = dot(map, t.reach + k * t.P, t.P);
      row[3 + 2 * k] = alive == map ? row[2 + 2 * k] : dot(alive, t.reach + k * t.P, t.P);
    }
  }
  free(map);
  return 0;
}

// Returns how many trains could not be counted for want of memory.
HAD_EXPORT had_i64 HAD_SYMBOL(spike_count)(const SpikeTrain* trains, int count, int threads) {
  int failed = 0;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(+ : failed) if (threads > 1)
  for (int i = 0; i < count; ++i) failed += count_train(trains[i]);
  return failed;
}
