// Buckets packed events by output site (host only; a GPU sorts with torch): a stable counting sort, checked on the way.
//
// An event at (x, y) reaches every output whose kernel covers it: oy with 0 <= y + padding - oy * stride < k, the same in
// x. Each such pair becomes one entry of its site, in the order of the events; see neuron/event_lif.cu for its layout.
#include "../neuron/prelude.cuh"

#include <stdlib.h>

// start [B * Ho * Wo + 1] and entries [at most N * ceil(k / stride)^2 < 2^32] are written.
struct EventBucket {
  const had_i64* t;
  const had_i16 *x, *y;
  const had_u8* p;
  const had_i64 *offsets, *t_begin, *t_end;
  had_i64* start;
  had_u64* entries;
  had_i64 B, H, W, k, stride, padding;
  int threads;
};

// Outputs that cover a coordinate: `count` of them from `first` on, times `pitch`; `tap` is the place in the kernel of
// the first, times its own pitch. Each further output lies `pitch` further and `stride` taps back.
typedef struct {
  int first, count, tap;
} Reach;

static void fill_reach(Reach* reach, had_i64 size, had_i64 outputs, had_i64 k, had_i64 stride, had_i64 padding,
                       had_i64 pitch, had_i64 tap_pitch) {
  for (had_i64 i = 0; i < size; ++i) {
    const had_i64 far = i + padding, near = far - k + 1;
    const had_i64 low = near > 0 ? (near + stride - 1) / stride : 0;
    const had_i64 high = far / stride < outputs - 1 ? far / stride : outputs - 1;
    reach[i].first = (int)(low * pitch);
    reach[i].tap = (int)((far - low * stride) * tap_pitch);
    reach[i].count = high >= low ? (int)(high - low + 1) : 0;
  }
}

struct Events : EventBucket {
  had_i64 Ho, Wo;
  const Reach *rows, *columns;
};

HAD_INLINE had_i64 later(had_i64 a, had_i64 b) { return a > b ? a : b; }
HAD_INLINE had_i64 sooner(had_i64 a, had_i64 b) { return a < b ? a : b; }

// Counts the entries of each site among events [from, to). Returns the first bad event, or -1. With `single`, a constant
// at each call, no kernel overlaps another: the usual stem, and twice as fast.
HAD_INLINE had_i64 count_entries(const Events* v, had_u32* histogram, had_i64 from, had_i64 to, const int single) {
  for (had_i64 b = 0; b < v->B; ++b) {
    const had_i64 first = later(v->offsets[b], from), stop = sooner(v->offsets[b + 1], to), end = v->t_end[b];
    had_u32* sites = histogram + b * v->Ho * v->Wo;
    had_i64 previous = first > v->offsets[b] ? v->t[first - 1] : v->t_begin[b];
    for (had_i64 i = first; i < stop; ++i) {
      const had_i64 now = v->t[i], x = v->x[i], y = v->y[i];
      const int outside = ((had_u64)x >= (had_u64)v->W) | ((had_u64)y >= (had_u64)v->H) | (v->p[i] > 1);
      if (outside | (now < previous) | (now >= end)) return i;
      previous = now;
      const Reach *r = v->rows + y, *c = v->columns + x;
      if (single) {
        if (r->count & c->count) ++sites[r->first + c->first];
        continue;
      }
      for (int i_y = 0; i_y < r->count; ++i_y)
        for (int i_x = 0; i_x < c->count; ++i_x) ++sites[r->first + i_y * v->Wo + c->first + i_x];
    }
  }
  return -1;
}

// Writes the entries of events [from, to); `next` holds the position of the next entry of each site.
HAD_INLINE void write_entries(const Events* v, had_u32* next, had_u64* entries, had_i64 from, had_i64 to,
                              const int single) {
  const int square = (int)(v->k * v->k), row_back = (int)(v->stride * v->k), back = (int)v->stride;
  for (had_i64 b = 0; b < v->B; ++b) {
    const had_i64 first = later(v->offsets[b], from), stop = sooner(v->offsets[b + 1], to), begin = v->t_begin[b];
    had_u32* sites = next + b * v->Ho * v->Wo;
    for (had_i64 i = first; i < stop; ++i) {
      const Reach *r = v->rows + v->y[i], *c = v->columns + v->x[i];
      const had_u64 when = (had_u64)(v->t[i] - begin) << 16;
      const int tap = v->p[i] * square + r->tap + c->tap;
      if (single) {
        if (r->count & c->count) entries[sites[r->first + c->first]++] = when | (had_u64)tap;
        continue;
      }
      for (int i_y = 0; i_y < r->count; ++i_y)
        for (int i_x = 0; i_x < c->count; ++i_x)
          entries[sites[r->first + i_y * v->Wo + c->first + i_x]++] =
              when | (had_u64)(tap - i_y * row_back - i_x * back);
    }
  }
}

// Returns -1, or the index of the first event that is unsorted, outside its window or outside H x W, or -2 where scratch
// memory could not be had.
HAD_EXPORT had_i64 HAD_SYMBOL(event_bucket)(const EventBucket* p) {
  const had_i64 N = p->offsets[p->B], k = p->k, stride = p->stride, padding = p->padding;
  const had_i64 Ho = (p->H + 2 * padding - k) / stride + 1, Wo = (p->W + 2 * padding - k) / stride + 1;
  const had_i64 sites = p->B * Ho * Wo;
  // Each worker pays for a histogram of all sites, so there are few of them where events are few.
  had_i64 workers = N / (sites + 8192) + 1;
  workers = workers < p->threads ? workers : p->threads;
  workers = workers < 16 ? workers : 16;
  Reach* reach = (Reach*)malloc((size_t)(p->H + p->W) * sizeof(Reach));
  had_u32* tables = (had_u32*)calloc((size_t)(workers * sites), sizeof(had_u32));
  if (!reach || !tables) {
    free(reach);
    free(tables);
    return -2;
  }
  fill_reach(reach, p->H, Ho, k, stride, padding, Wo, k);
  fill_reach(reach + p->H, p->W, Wo, k, stride, padding, 1, 1);
  const Events v = {*p, Ho, Wo, reach, reach + p->H};
  had_i64 bad = -1;
#pragma omp parallel for schedule(static) num_threads(workers) if (workers > 1)
  for (had_i64 worker = 0; worker < workers; ++worker) {
    const had_i64 from = N * worker / workers, to = N * (worker + 1) / workers;
    had_u32* table = tables + worker * sites;
    const had_i64 found = k <= stride ? count_entries(&v, table, from, to, 1) : count_entries(&v, table, from, to, 0);
    if (found >= 0) {
#pragma omp critical(had_event_bucket_bad)
      bad = bad < 0 || found < bad ? found : bad;
    }
  }
  if (bad < 0) {
    had_u32 total = 0;
    for (had_i64 site = 0; site < sites; ++site) {
      p->start[site] = total;
      for (had_i64 worker = 0; worker < workers; ++worker) {
        const had_u32 here = tables[worker * sites + site];
        tables[worker * sites + site] = total;
        total += here;
      }
    }
    p->start[sites] = total;
#pragma omp parallel for schedule(static) num_threads(workers) if (workers > 1)
    for (had_i64 worker = 0; worker < workers; ++worker) {
      const had_i64 from = N * worker / workers, to = N * (worker + 1) / workers;
      had_u32* table = tables + worker * sites;
      if (k <= stride)
        write_entries(&v, table, p->entries, from, to, 1);
      else
        write_entries(&v, table, p->entries, from, to, 0);
    }
  }
  free(reach);
  free(tables);
  return bad;
}
