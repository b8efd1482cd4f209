// The readers' inner loops: records and words of event files into columns of t, x, y, p.
//
// Host only. Every decoder takes a block of whole items and carries what its encoding carries (clock, row, base of a
// vector) in `state`, so a file may be cut into blocks anywhere between items. It writes at most `capacity` events,
// tells by `used` how many items it took, and never reads or writes outside what it was given, whatever the bytes are.
// had_snn/recordings/decoders.py calls them.
#include "../neuron/prelude.cuh"

#include <string.h>

// Items of an encoding, what it carries from block to block (each loop says what), and room for events. `used` receives how
// many items were taken.
struct Decode {
  const had_u8* data;
  had_i64* t;
  had_u16 *x, *y;
  signed char* p;
  had_i64 items, capacity, used;
  had_i64 state[5];
  int kind;
};

namespace {

// Where events go. A loop may write at `count` without counting the event, so it needs room for one more.
struct Columns {
  had_i64* t;
  had_u16* x;
  had_u16* y;
  signed char* p;
  had_i64 capacity, count;

  void put(had_i64 time, had_u32 column, had_u32 row, had_u32 polarity) {
    t[count] = time;
    x[count] = (had_u16)column;
    y[count] = (had_u16)row;
    p[count] = (signed char)polarity;
  }
  // Items that can be decoded without a look at the capacity, if each makes at most `most` events.
  had_i64 batch(had_i64 items, had_i64 most) const {
    const had_i64 fit = (capacity - count) / most;
    return items < fit ? items : fit;
  }
};

// A counter of `bits` bits, extended: a drop of more than half its range is a wrap. Before its first value it is -1.
inline had_i64 extend(had_i64 before, had_u32 value, int bits) {
  const had_i64 period = (had_i64)1 << bits;
  if (before < 0) return value;
  const had_i64 last = before & (period - 1);
  return before - last + value + ((had_i64)value - last < -(period >> 1) ? period : 0);
}

// `a` if `take`, else `b`, without a branch: which kind of word comes next is as good as random.
inline had_i64 choose(bool take, had_i64 a, had_i64 b) { return b ^ ((a ^ b) & -(had_i64)take); }

template <typename Word>
inline Word load(const had_u8* at) {
  Word word;
  memcpy(&word, at, sizeof(Word));
  return word;
}

inline had_u32 big_endian_32(const had_u8* at) { return __builtin_bswap32(load<had_u32>(at)); }

// How many of the next EVT2 words are events (kinds 0 and 1).
inline had_i64 run_of_events(const had_u8* data, had_i64 items) {
  had_i64 i = 0;
  for (; i + 8 <= items; i += 8) {
    had_u32 any = 0;
    for (int k = 0; k < 8; ++k) any |= load<had_u32>(data + 4 * (i + k));
    if (any >> 29) break;
  }
  while (i < items && load<had_u32>(data + 4 * i) >> 29 == 0) ++i;
  return i;
}

// EVT2: 32-bit words, one event each. state: upper time.
had_i64 evt2(const had_u8* data, had_i64 items, had_i64* state, Columns& result) {
  Columns out = result;  // a copy of its own stays in registers
  had_i64 high = state[0];
  const had_i64 n = out.batch(items, 1);
  for (had_i64 i = 0; i < n;) {
    const had_u32 word = load<had_u32>(data + 4 * i);
    if (word >> 29 == 0) {  // a run of events: most files have long ones
      const had_i64 run = high < 0 ? 0 : run_of_events(data + 4 * i, n - i);
      for (had_i64 k = 0; k < run; ++k) {
        const had_u32 event = load<had_u32>(data + 4 * (i + k));
        out.t[out.count + k] = (high << 6) + (event >> 22 & 63);
        out.x[out.count + k] = event >> 11 & 0x7ff;
        out.y[out.count + k] = event & 0x7ff;
        out.p[out.count + k] = event >> 28;
      }
      out.count += run;
      i += run ? run : 1;
      continue;
    }
    if (word >> 28 == 8) high = extend(high, word & 0xfffffff, 28);
    ++i;
  }
  result.count = out.count;
  state[0] = high;
  return n;
}

// EVT2.1: 64-bit words, up to 32 events of a row each. state: upper time, 1 if the halves of the words are swapped.
had_i64 evt21(const had_u8* data, had_i64 items, had_i64* state, Columns& result) {
  Columns out = result;  // a copy of its own stays in registers
  const int upper_at = state[1] ? 0 : 4;
  had_i64 high = state[0], i = 0;
  for (had_i64 batch; (batch = out.batch(items - i, 32)) > 0;) {
    for (const had_i64 stop = i + batch; i < stop; ++i) {
      const had_u32 word = load<had_u32>(data + 8 * i + upper_at), kind = word >> 28;
      if (kind == 8) {
        high = extend(high, word & 0xfffffff, 28);
      } else if (kind <= 1 && high >= 0) {
        const had_i64 t = (high << 6) + (word >> 22 & 63);
        for (had_u32 valid = load<had_u32>(data + 8 * i + (4 - upper_at)); valid; valid &= valid - 1) {
          out.put(t, (word >> 11 & 0x7ff) + __builtin_ctz(valid), word & 0x7ff, kind);
          ++out.count;
        }
      }
    }
  }
  state[0] = high;
  result.count = out.count;
  return i;
}

// EVT3: 16-bit words that change one part of the state each. A new upper time clears the lower one, a repeated one does
// not; lower times before the first upper one tell nothing. state: upper time, lower time, row, vector's column,
// vector's polarity; upper time and row are -1 while unknown, and events are dropped until both are known.
struct Evt3 {
  had_i64 high, time, row, base, polarity;

  bool known() const { return (high | row) >= 0; }
  // Any word; the loop below has a short cut for the common ones.
  __attribute__((noinline)) void step(had_u32 word, Columns& out) {
    const had_u32 kind = word >> 12, value = word & 0xfff;
    if (kind == 0) {
      row = value & 0x7ff;
    } else if (kind == 2) {
      if (known()) out.put(time, value & 0x7ff, (had_u32)row, value >> 11), ++out.count;
    } else if (kind == 3) {
      base = value & 0x7ff;
      polarity = value >> 11;
    } else if (kind == 4 || kind == 5) {
      for (had_u32 valid = known() ? value & (kind == 4 ? 0xfff : 0xff) : 0; valid; valid &= valid - 1) {
        const had_i64 column = base + __builtin_ctz(valid);
        out.put(time, column < 65535 ? (had_u32)column : 65535u, (had_u32)row, (had_u32)polarity);
        ++out.count;
      }
      base += kind == 4 ? 12 : 8;
    } else if (kind == 6) {
      if (high >= 0) time = (high << 12) + value;
    } else if (kind == 8) {
      const had_i64 next = extend(high, value, 12);
      if (next != high) time = next << 12;
      high = next;
    }
  }
};

had_i64 evt3(const had_u8* data, had_i64 items, had_i64* state, Columns& out) {
  Evt3 now = {state[0], state[1], state[2], state[3], state[4]};
  had_i64 i = 0;
  for (had_i64 batch; (batch = out.batch(items - i, 12)) > 0;) {
    const had_i64 stop = i + batch;
    while (i < stop) {
      had_u32 word = load<had_u16>(data + 2 * i);
      if (now.known()) {  // rows, events and lower times, without a branch
        Columns to = out;
        had_i64 time = now.time, row = now.row;
        const had_i64 upper = now.high << 12;
        while ((1u << (word >> 12)) & (1u << 0 | 1u << 2 | 1u << 6)) {
          const had_u32 kind = word >> 12, value = word & 0xfff;
          to.put(time, value & 0x7ff, (had_u32)row, value >> 11);
          to.count += kind == 2;
          row = choose(kind == 0, value & 0x7ff, row);
          time = choose(kind == 6, upper + value, time);
          if (++i == stop) break;
          word = load<had_u16>(data + 2 * i);
        }
        out.count = to.count;
        now.time = time;
        now.row = row;
        if (i == stop) break;
      }
      now.step(word, out);
      ++i;
    }
  }
  const had_i64 after[5] = {now.high, now.time, now.row, now.base, now.polarity};
  memcpy(state, after, sizeof(after));
  return i;
}

// DAT version 2: 32-bit time, then column, row and polarity in one 32-bit word. state: time.
had_i64 dat(const had_u8* data, had_i64 items, had_i64* state, Columns& result) {
  Columns out = result;
  const had_i64 n = out.batch(items, 1);
  had_i64 time = state[0];
  if (n > 0 && time < 0) time = load<had_u32>(data);
  had_u32 last = (had_u32)time, falls = 0;
  for (had_i64 i = 0; i < n; ++i) {
    const had_u32 now = load<had_u32>(data + 8 * i);
    falls |= now < last;
    last = now;
  }
  const had_i64 loops = time - (had_u32)time;
  for (had_i64 i = 0; i < n; ++i) {
    out.t[i] = loops + load<had_u32>(data + 8 * i);
    const had_u32 word = load<had_u32>(data + 8 * i + 4);
    out.x[i] = word & 0x3fff;
    out.y[i] = word >> 14 & 0x3fff;
    out.p[i] = word >> 28 & 1;
  }
  if (falls) {  // a wrap, or a step back
    for (had_i64 i = 0; i < n; ++i) out.t[i] = time = extend(time, load<had_u32>(data + 8 * i), 32);
  } else if (n > 0) {
    time = loops + last;
  }
  result.count = n;
  state[0] = time;
  return n;
}

// AEDAT 1 and 2: an address of 2 or 4 bytes, then a time of 4, all big-endian. state: time, bytes of an address, width
// and height of a DAVIS, 0 for the DVS128. Columns count from the right and rows from the bottom; a wrong chip gives
// numbers below 0, which wrap to large ones.
had_i64 aedat(const had_u8* data, had_i64 items, had_i64* state, Columns& result) {
  Columns out = result;  // a copy of its own stays in registers
  const had_i64 n = out.batch(items, 1);
  const int bytes = state[1] == 2 ? 2 : 4;
  const had_u32 width = (had_u32)state[2], height = (had_u32)state[3];
  had_i64 time = state[0];
  for (had_i64 i = 0; i < n; ++i) {
    const had_u8* record = data + (bytes + 4) * i;
    const had_u32 address = bytes == 2 ? __builtin_bswap16(load<had_u16>(record)) : big_endian_32(record);
    time = extend(time, big_endian_32(record + bytes), 32);
    if (width) {  // bit 31: picture or motion sample, bit 10: special, 11: polarity, 12-21: column, 22-30: row
      out.put(time, width - 1 - (address >> 12 & 0x3ff), height - 1 - (address >> 22 & 0x1ff), address >> 11 & 1);
      out.count += (address & 0x80000400u) == 0;
    } else {  // bit 0: polarity (0 = brighter), 1-7: column, 8-14: row, 15 and above: special
      out.put(time, 127 - (address >> 1 & 0x7f), 127 - (address >> 8 & 0x7f), 1 - (address & 1));
      out.count += (address >> 15) == 0;
    }
  }
  state[0] = time;
  result.count = out.count;
  return n;
}

// Event Stream: items are bytes. 0xff adds 127 us, 0xfe only brings a lost reader back, anything else begins an event
// of 5 bytes. An event that the block cuts is left for the next one. state: time, height (rows count from the bottom).
had_i64 es(const had_u8* data, had_i64 items, had_i64* state, Columns& result) {
  Columns out = result;  // a copy of its own stays in registers
  const had_u32 height = (had_u32)state[1];
  had_i64 time = state[0], i = 0;
  while (i < items) {
    const had_u32 head = data[i];
    if (head >= 0xfe) {
      time += head == 0xff ? 127 : 0;
      ++i;
      continue;
    }
    if (items - i < 5 || out.count >= out.capacity) break;
    time += head >> 1;
    out.put(time, load<had_u16>(data + i + 1), height - 1 - load<had_u16>(data + i + 3), head & 1);
    ++out.count;
    i += 5;
  }
  state[0] = time;
  result.count = out.count;
  return i;
}

// N-MNIST: column, row, then polarity and 23 bits of time, high byte first. Row 240 is no event but a wrap of the
// camera's 13-bit clock. state: wraps.
had_i64 nmnist(const had_u8* data, had_i64 items, had_i64* state, Columns& result) {
  Columns out = result;  // a copy of its own stays in registers
  const had_i64 n = out.batch(items, 1);
  had_i64 wraps = state[0];
  for (had_i64 i = 0; i < n; ++i) {
    const had_u8* record = data + 5 * i;
    const had_u32 word = big_endian_32(record + 1) & 0xffffff;
    wraps += record[1] == 240;
    out.put((wraps << 13) + (word & 0x7fffff), record[0], record[1], word >> 23);
    out.count += record[1] != 240;
  }
  state[0] = wraps;
  result.count = out.count;
  return n;
}

typedef had_i64 (*Decoder)(const had_u8*, had_i64, had_i64*, Columns&);
const Decoder kDecoders[] = {evt2, evt21, evt3, dat, aedat, es, nmnist};  // the order of decoders.KINDS

}  // namespace

// Decodes items and returns how many events were written. -1: no such kind.
HAD_EXPORT had_i64 had_decode(Decode* d) {
  d->used = 0;
  if (d->kind < 0 || d->kind >= (int)(sizeof(kDecoders) / sizeof(kDecoders[0])) || d->capacity <= 0) return -1;
  Columns out = {d->t, d->x, d->y, d->p, d->capacity, 0};
  d->used = kDecoders[d->kind](d->data, d->items, d->state, out);
  return out.count;
}
