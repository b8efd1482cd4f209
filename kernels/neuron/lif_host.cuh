// The CPU loops of the clocked LIF: tasks of neurons over threads, blocks of neurons that stay in the caches, lanes of
// neurons in registers. The steps are those of surrogate.cuh; see lif.cu for the equations and the layout of every array.
//
// A block walks all its steps before the next one begins, HAD_BLOCK neurons of a row at a time: bursts of 4 KiB, which
// the memory serves at the speed of a plain copy. (With a few registers' worth of each of T rows at a time, both
// passes took twice as long.)
#ifndef HAD_LIF_HOST_CUH
#define HAD_LIF_HOST_CUH

// Neurons of one task. The partial sums of alpha and threshold are added up task by task, in order, so a gradient does not
// depend on the number of threads.
#define HAD_TASK 16384
// Neurons of one block: the potentials of a chunk, 64 KiB, stay in the second-level cache.
#define HAD_BLOCK 1024

// One float a neuron of a block; loads beyond the block's end stay inside.
typedef struct {
  float at[HAD_BLOCK] __attribute__((aligned(64)));
} Block;

HAD_INLINE lanes block_get(const Block* b, int i) { return had_load_f32(b->at + i, HAD_LANES); }
HAD_INLINE void block_set(Block* b, int i, lanes x) { had_store_f32(b->at + i, x, HAD_LANES); }

// Fetches the cache line at `row + i` if `i` begins one. Addresses past the end are harmless.
HAD_INLINE void fetch_ahead(const storage* row, int i) {
  if (i % (64 / (int)sizeof(storage)) == 0) __builtin_prefetch(row + i, 0, 2);
}

// The values of neurons n .. n + size - 1 from an array over all neurons, or zeros.
HAD_INLINE void block_load(Block* b, const float* values, had_i64 n, int size) {
  if (values)
    memcpy(b->at, values + n, (size_t)size * sizeof(float));
  else
    memset(b->at, 0, sizeof b->at);
}

// Decay and threshold of each neuron of a block; where there is one channel they are kept in a register instead.
typedef struct {
  Block alpha, threshold;
} Channels;

HAD_INLINE void channels_load(Channels* c, const Clocked* p, had_i64 n, int size) {
  had_i64 channel = (n / p->inner) % p->channels, r = n % p->inner;
  for (int i = 0; i < size;) {
    const int run = (int)(p->inner - r < size - i ? p->inner - r : size - i);
    for (int end = i + run; i < end; ++i) {
      c->alpha.at[i] = p->alpha[channel];
      c->threshold.at[i] = p->threshold[channel];
    }
    r = 0;
    channel = channel + 1 == p->channels ? 0 : channel + 1;
  }
}

HAD_INLINE void add_per_channel(const Clocked* p, double* sums, const Block* values, had_i64 n, int size) {
  had_i64 c = (n / p->inner) % p->channels, r = n % p->inner;
  for (int i = 0; i < size; ++i) {
    sums[c] += values->at[i];
    if (++r == p->inner) {
      r = 0;
      if (++c == p->channels) c = 0;
    }
  }
}

// Calls `group(i, count)` for every group of lanes of a row; `count` is HAD_LANES, a constant, for all but the last.
#define HAD_EACH_GROUP(size, group)                               \
  do {                                                            \
    int i = 0;                                                    \
    for (; i + HAD_LANES <= size; i += HAD_LANES) group(i, HAD_LANES); \
    if (i < size) group(i, size - i);                             \
  } while (0)

// `uniform` (one channel) is a constant at each call, as are the usual cases' members of `k`: the compiler drops the rest.
HAD_INLINE void forward_block(const Clocked* p, const Neuron k, storage* s, float* v, storage* h_out, had_i64 n, int size,
                              const int uniform) {
  Block u;
  Channels c;
  block_load(&u, p->v0, n, size);
  if (!uniform) channels_load(&c, p, n, size);
  const lanes alpha = had_splat(p->alpha[0]), threshold = had_splat(p->threshold[0]);
  for (had_i64 t = 0; t < p->T; ++t) {
    if (p->kept && t && t % HAD_CHUNK == 0)
      memcpy(p->kept + (t / HAD_CHUNK - 1) * p->N + n, u.at, (size_t)size * sizeof(float));
    const storage* row = p->x + t * p->x_step + n;
    const storage* ahead = t + 1 < p->T ? row + p->x_step : p->x + n + HAD_BLOCK;
    auto group = [&](int i, const int count) __attribute__((always_inline)) {
      const lanes a = uniform ? alpha : block_get(&c.alpha, i), th = uniform ? threshold : block_get(&c.threshold, i);
      fetch_ahead(ahead, i);
      const lanes h = had_charge(block_get(&u, i), a, had_load(row + i, count));
      const lanes fired = had_fire(h, th);
      block_set(&u, i, had_reset(k, h, fired, th));
      had_store(s + t * p->N + n + i, fired, count, p->stream);
      if (h_out) had_store(h_out + t * p->N + n + i, h, count, p->stream);
    };
    HAD_EACH_GROUP(size, group);
  }
  memcpy(v + n, u.at, (size_t)size * sizeof(float));
}

HAD_INLINE void forward_range(const Clocked* p, const Neuron k, storage* s, float* v, storage* h_out, had_i64 n,
                              had_i64 end) {
  for (; n < end; n += HAD_BLOCK) {
    const int size = (int)(end - n < HAD_BLOCK ? end - n : HAD_BLOCK);
    if (p->channels == 1)
      forward_block(p, k, s, v, h_out, n, size, 1);
    else
      forward_block(p, k, s, v, h_out, n, size, 0);
  }
}

HAD_EXPORT void HAD_SYMBOL(lif_forward)(const LifForward* given) {
  const LifForward f = *given;
  const Clocked* p = &f.clocked;
  const Neuron k = p->neuron;
  const had_i64 tasks = (p->N + HAD_TASK - 1) / HAD_TASK;
#pragma omp parallel for schedule(static) num_threads(p->threads) if (p->threads > 1)
  for (had_i64 task = 0; task < tasks; ++task) {
    const had_i64 from = task * HAD_TASK, to = from + HAD_TASK < p->N ? from + HAD_TASK : p->N;
    if (!k.soft && !f.h)
      forward_range(p, Neuron{k.v_reset, k.slope, 0, 0, 1}, f.s, f.v, 0, from, to);
    else
      forward_range(p, k, f.s, f.v, f.h, from, to);
    if (p->stream) had_stream_fence();
  }
}

// What a block carries from one chunk to the one before it.
typedef struct {
  Block carry, to_alpha, to_threshold;
  Channels channels;
} Reverse;

// One chunk of up to HAD_CHUNK steps: its potentials again from the one before it, then the steps in reverse. The first
// sweep fetches the gradients that the second reads, and that one the inputs of the chunk or block that comes next.
HAD_INLINE void backward_chunk(const Clocked* p, const Neuron k, const LifBackward* q, Reverse* r, had_i64 n, int size,
                               had_i64 chunk, const int uniform, const int learn) {
  Block before, h[HAD_CHUNK];
  const had_i64 t0 = chunk * HAD_CHUNK, last = (p->T - 1) / HAD_CHUNK * HAD_CHUNK;
  const int steps = (int)(p->T - t0 < HAD_CHUNK ? p->T - t0 : HAD_CHUNK);
  const float* start = chunk ? p->kept + (chunk - 1) * p->N : p->v0;
  const storage* next = chunk ? p->x + (t0 - HAD_CHUNK) * p->x_step + n : p->x + last * p->x_step + n + HAD_BLOCK;
  const lanes alpha = had_splat(p->alpha[0]), threshold = had_splat(p->threshold[0]), zero = had_splat(0.0f);
  block_load(&before, start, n, size);
  for (int step = 0; step < steps; ++step) {
    const storage* row = p->x + (t0 + step) * p->x_step + n;
    const storage* ahead = q->g_s ? q->g_s + (t0 + steps - 1 - step) * p->N + n : row;
    auto group = [&](int i, const int count) __attribute__((always_inline)) {
      const Block* c = &r->channels.alpha;
      const lanes a = uniform ? alpha : block_get(c, i), th = uniform ? threshold : block_get(&r->channels.threshold, i);
      fetch_ahead(ahead, i);
      const lanes charged = had_charge(block_get(&before, i), a, had_load(row + i, count));
      block_set(&h[step], i, charged);
      block_set(&before, i, had_reset(k, charged, had_fire(charged, th), th));
    };
    HAD_EACH_GROUP(size, group);
  }
  if (learn) block_load(&before, start, n, size);
  for (int step = steps - 1; step >= 0; --step) {
    const had_i64 at = (t0 + step) * p->N + n;
    const storage* ahead = next + step * p->x_step;
    auto group = [&](int i, const int count) __attribute__((always_inline)) {
      const Block* c = &r->channels.alpha;
      const lanes a = uniform ? alpha : block_get(c, i), th = uniform ? threshold : block_get(&r->channels.threshold, i);
      fetch_ahead(ahead, i);
      const lanes gs = q->g_s ? had_load(q->g_s + at + i, count) : zero;
      const lanes gm = q->g_h ? had_load(q->g_h + at + i, count) : zero;
      lanes to_threshold = learn ? block_get(&r->to_threshold, i) : zero;
      const lanes grad = had_step_backward(k, block_get(&h[step], i), th, gs, gm, block_get(&r->carry, i), &to_threshold);
      if (q->g_x) had_store(q->g_x + at + i, grad, count, p->stream);
      block_set(&r->carry, i, grad * a);
      if (learn) {
        const lanes earlier = step ? block_get(&h[step - 1], i) : block_get(&before, i);
        const lanes v = step ? had_reset(k, earlier, had_fire(earlier, th), th) : earlier;
        block_set(&r->to_alpha, i, block_get(&r->to_alpha, i) + grad * v);
        block_set(&r->to_threshold, i, to_threshold);
      }
    };
    HAD_EACH_GROUP(size, group);
  }
}

HAD_INLINE void backward_block(const Clocked* p, const Neuron k, const LifBackward* q, had_i64 n, int size,
                               const int uniform, const int learn) {
  Reverse r;
  block_load(&r.carry, q->g_v, n, size);
  if (!uniform) channels_load(&r.channels, p, n, size);
  if (learn) {
    block_load(&r.to_alpha, 0, n, size);
    block_load(&r.to_threshold, 0, n, size);
  }
  for (had_i64 chunk = (p->T - 1) / HAD_CHUNK; chunk >= 0; --chunk)
    backward_chunk(p, k, q, &r, n, size, chunk, uniform, learn);
  if (q->g_v0) memcpy(q->g_v0 + n, r.carry.at, (size_t)size * sizeof(float));
  if (q->g_alpha) add_per_channel(p, q->g_alpha, &r.to_alpha, n, size);
  if (q->g_threshold) add_per_channel(p, q->g_threshold, &r.to_threshold, n, size);
}

HAD_INLINE void backward_range(const Clocked* p, const Neuron k, const LifBackward* q, had_i64 n, had_i64 end) {
  const int learn = q->g_alpha || q->g_threshold;
  for (; n < end; n += HAD_BLOCK) {
    const int size = (int)(end - n < HAD_BLOCK ? end - n : HAD_BLOCK);
    if (p->channels == 1 && !learn)
      backward_block(p, k, q, n, size, 1, 0);
    else if (p->channels == 1)
      backward_block(p, k, q, n, size, 1, 1);
    else
      backward_block(p, k, q, n, size, 0, 1);
  }
}

HAD_EXPORT void HAD_SYMBOL(lif_backward)(const LifBackward* given) {
  const LifBackward b = *given;
  const Clocked* p = &b.clocked;
  const Neuron k = p->neuron;
#pragma omp parallel for schedule(static) num_threads(p->threads) if (p->threads > 1)
  for (had_i64 task = 0; task < b.rows; ++task) {
    const had_i64 from = task * HAD_TASK, to = from + HAD_TASK < p->N ? from + HAD_TASK : p->N;
    LifBackward all = b;
    if (b.g_alpha) all.g_alpha += task * p->channels;
    if (b.g_threshold) all.g_threshold += task * p->channels;
    LifBackward no_h = all;
    no_h.g_h = 0;
    const int usual = !k.soft && k.detach && !b.g_h;
    if (usual && k.surrogate == 0)
      backward_range(p, Neuron{k.v_reset, k.slope, 0, 0, 1}, &no_h, from, to);
    else if (usual && k.surrogate == 2)
      backward_range(p, Neuron{k.v_reset, k.slope, 2, 0, 1}, &no_h, from, to);
    else
      backward_range(p, k, &all, from, to);
    if (p->stream) had_stream_fence();
  }
}

#endif
