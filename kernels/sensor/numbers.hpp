// Numbers for the simulated sensor that are the same bits on every processor: random ones from hashes of (seed, pixel,
// count), logarithm and exponential in plain operations; and the choice of a vector width at run time.
#pragma once
#include "../neuron/prelude.cuh"

// Hot loops are written once as an inlined body, wrapped for several vector widths, and chosen by the processor at run
// time. (GCC's own target_clones takes the copies too late: it leaves these loops scalar.)
#if defined(__x86_64__) && defined(__GNUC__) && !defined(HAD_VARIANT)
#define HAD_512 __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw")))
#define HAD_256 __attribute__((target("avx2")))
#define HAD_WIDE(attributes, name, parameters, arguments)                      \
  HAD_512 attributes name##_512 parameters { name##_body arguments; }          \
  HAD_256 attributes name##_256 parameters { name##_body arguments; }          \
  attributes name##_128 parameters { name##_body arguments; }                  \
  attributes name parameters {                                                 \
    if (vector_bits() == 512) return name##_512 arguments;                     \
    if (vector_bits() == 256) return name##_256 arguments;                     \
    name##_128 arguments;                                                      \
  }
#else
#define HAD_WIDE(attributes, name, parameters, arguments) \
  attributes name parameters { name##_body arguments; }
#endif

namespace {

#if defined(__x86_64__) && defined(__GNUC__)
int vector_bits() {
  static const int bits = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                                  __builtin_cpu_supports("avx512vl")
                              ? 512
                              : (__builtin_cpu_supports("avx2") ? 256 : 128);
  return bits;
}
#endif

inline had_u64 hash(had_u64 seed, had_u64 a, had_u64 b) {  // the finaliser of SplitMix64 (Steele et al., 2014), twice
  had_u64 z = seed + a * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull + b * 0xd1342543de82ef95ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

inline float uniform(had_u64 bits) { return ((float)(bits >> 40) + 0.5f) * (1.0f / 16777216.0f); }

// Nearly normal: sum of eight 16-bit uniforms (Irwin-Hall), limited to 4.9 sigma; a threshold must not turn negative.
inline float normal(had_u64 a, had_u64 b) {
  int sum = 0;
  for (int i = 0; i < 4; ++i) sum += (int)((a >> (16 * i)) & 0xffff) + (int)((b >> (16 * i)) & 0xffff);
  return ((float)sum - 262140.0f) * (1.0f / 53509.3f);
}

// Roughly normal, for image noise: sum of four 16-bit uniforms.
inline float grain(had_u64 a) {
  const int sum = (int)(a & 0xffff) + (int)(a >> 16 & 0xffff) + (int)(a >> 32 & 0xffff) + (int)(a >> 48);
  return ((float)sum - 131070.0f) * (1.0f / 37836.8f);
}

// Cephes' logf (S. L. Moshier) in plain operations; x > 0 and normal.
inline float log_plain(float x) {
  had_u32 u;
  memcpy(&u, &x, 4);
  int e = (int)(u >> 23) - 126;
  u = (u & 0x7fffffu) | 0x3f000000u;
  float m;
  memcpy(&m, &u, 4);
  if (m < 0.707106781f) {
    e -= 1;
    m = m + m;
  }
  m -= 1.0f;
  const float z = m * m;
  float p = 7.0376836292e-2f;
  const float c[8] = {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                      -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f};
  for (int i = 0; i < 8; ++i) p = p * m + c[i];
  return ((p * m * z + (float)e * -2.12194440e-4f) - 0.5f * z) + m + (float)e * 0.693359375f;
}

// The polynomial of had_exp for one float, so that the compiler can vectorise a loop over it; no clamp, |x| < 80.
HAD_INLINE float exp_plain(float x) {
  const float z = x * 1.44269504f + 12582912.0f;
  const float n = z - 12582912.0f;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  had_u32 u;
  memcpy(&u, &z, 4);
  u = (u + 127u) << 23;
  float power;
  memcpy(&power, &u, 4);
  return p * power;
}

}  // namespace
