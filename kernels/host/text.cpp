// Lines of decimal numbers into columns of integers, exactly: no number passes through floating point.
//
// Host only; had_snn/recordings/decoders.py calls it. A line holds `width` numbers apart by blanks, tabs, commas or
// semicolons; empty lines and comments (# or %) are passed over. A number may have a sign, a decimal point and an
// exponent.
#include "../neuron/prelude.cuh"

#include <string.h>

// Whole lines; data[size - 1] must be a line end. `roles` says for each of the `width` numbers of a line whether it is t
// (0), x (1), y (2), p (3) or nothing (-1); times are multiplied by 10^shift. `stopped` receives the byte it stopped at and
// `why` the reason: 0 at the end (or once `capacity` events are there), 1 at a line that does not hold `width` numbers, 2 at
// one with a time beyond 2^62.
struct ReadText {
  const had_u8* data;
  const int* roles;
  had_i64* t;
  int *x, *y, *p;
  had_i64 size, capacity, stopped, why;
  int width, shift;
};

namespace {

enum { kDone = 0, kNotNumbers = 1, kTooLarge = 2 };
const int kNotWhole = -0x7fffffff - 1;  // what a polarity with a fraction is read as; no number becomes it
const had_u64 kMost = (had_u64)1 << 62;
const had_u64 kPowers[20] = {1ull,
                             10ull,
                             100ull,
                             1000ull,
                             10000ull,
                             100000ull,
                             1000000ull,
                             10000000ull,
                             100000000ull,
                             1000000000ull,
                             10000000000ull,
                             100000000000ull,
                             1000000000000ull,
                             10000000000000ull,
                             100000000000000ull,
                             1000000000000000ull,
                             10000000000000000ull,
                             100000000000000000ull,
                             1000000000000000000ull,
                             10000000000000000000ull};

struct Number {
  had_u64 digits;
  int exponent;  // value = digits * 10^exponent
  bool negative;
};

inline bool is_separator(had_u8 c) { return c == ' ' || c == ',' || c == '\t' || c == ';' || c == '\r'; }

inline had_u32 digit(had_u8 c) { return (had_u32)c - '0'; }  // above 9 for anything else

// Reads a number; a line end stands somewhere behind `at`. Returns where it ends, or null where there is none.
const had_u8* read_number(const had_u8* at, Number& number) {
  number.negative = *at == '-';
  at += *at == '-' || *at == '+';
  const had_u8* const first = at;
  had_u64 value = digit(*at);
  if (value <= 9) {
    ++at;
    for (had_u32 d; (d = digit(*at)) <= 9 && at - first < 18; ++at) value = 10 * value + d;
  } else {
    value = 0;
  }
  number.exponent = 0;
  had_i64 count = at - first;
  // Digits beyond the 19th tell no more than the size of the number: truncation cannot change what rounds.
  for (had_u32 d; (d = digit(*at)) <= 9; ++at, ++count) {
    if (value < kPowers[18]) value = 10 * value + d;
    else if (number.exponent < 100000) ++number.exponent;
  }
  if (*at == '.') {
    ++at;
    for (had_u32 d; (d = digit(*at)) <= 9; ++at, ++count) {
      if (value < kPowers[18]) {
        value = 10 * value + d;
        --number.exponent;
      }
    }
  }
  if (count == 0) return nullptr;
  if (*at == 'e' || *at == 'E') {
    ++at;
    const bool down = *at == '-';
    at += *at == '-' || *at == '+';
    if (digit(*at) > 9) return nullptr;
    int power = 0;
    for (had_u32 d; (d = digit(*at)) <= 9; ++at) power = power < 100000 ? 10 * power + (int)d : power;
    number.exponent += down ? -power : power;
  }
  number.digits = value;
  return at;
}

// The number times 10^shift as an integer, halves going up; false if it exceeds 2^62.
inline bool round_number(const Number& number, int shift, had_i64& result) {
  had_u64 value = number.digits;
  const int power = number.exponent + shift;
  if (power > 0 && value) {
    if (power > 18 || __builtin_mul_overflow(value, kPowers[power], &value)) return false;
  } else if (power < -19) {
    value = 0;
  } else if (power < 0) {
    const had_u64 divisor = kPowers[-power], rest = value % divisor;
    value = value / divisor + (number.negative ? rest > divisor - rest : rest >= divisor - rest);
  }
  if (value > kMost) return false;
  result = number.negative ? -(had_i64)value : (had_i64)value;
  return true;
}

inline bool is_whole(const Number& number) {  // for exponents below 0
  return number.digits == 0 || (number.exponent >= -19 && number.digits % kPowers[-number.exponent] == 0);
}

// What does not fit is no pixel anyway, and the checks say so; a -1 that was written as a number of 32 bits without a
// sign is -1 again.
inline int narrow(had_i64 value) {
  if (value == 0xffffffffll) return -1;
  return value > 0x7fffffff ? 0x7fffffff : (value < -0x7fffffff ? -0x7fffffff : (int)value);
}

}  // namespace

// Parses lines and returns the number of those with events, or -1 where the last one has no end.
HAD_EXPORT had_i64 had_read_text(ReadText* given) {
  const ReadText r = *given;
  const had_u8* const end = r.data + r.size;
  const had_u8* at = r.data;
  int* const pixels[3] = {r.x, r.y, r.p};
  had_i64 count = 0, why = kDone;
  if (r.size <= 0 || end[-1] != '\n') return -1;
  while (at < end && count < r.capacity) {
    const had_u8* const line = at;
    while (is_separator(*at)) ++at;
    if (*at == '\n') {
      ++at;
      continue;
    }
    if (*at == '#' || *at == '%') {
      at = (const had_u8*)memchr(at, '\n', end - at) + 1;
      continue;
    }
    why = kDone;
    for (int i = 0; i < r.width && why == kDone; ++i) {
      Number number;
      had_i64 value = 0;
      const had_u8* const after = read_number(at, number);
      if (after == nullptr || !(is_separator(*after) || *after == '\n')) {
        why = kNotNumbers;
        break;
      }
      const int role = r.roles[i];
      if (role == 0) {
        if (round_number(number, r.shift, r.t[count])) value = 0;
        else why = kTooLarge;
      } else if (role > 0) {
        if (role == 3 && number.exponent < 0 && !is_whole(number)) {
          r.p[count] = kNotWhole;
        } else {
          if (!round_number(number, 0, value)) value = number.negative ? -(had_i64)kMost : (had_i64)kMost;
          pixels[role - 1][count] = narrow(value);
        }
      }
      at = after;
      while (is_separator(*at)) ++at;
    }
    if (why == kDone && *at != '\n') why = kNotNumbers;
    if (why != kDone) {
      at = line;
      break;
    }
    ++at;
    ++count;
  }
  given->stopped = at - r.data;
  given->why = why;
  return count;
}
