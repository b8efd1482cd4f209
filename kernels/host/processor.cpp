// What only the CPU library needs: which variant of the kernels this processor can run.
#include "../neuron/prelude.cuh"

// 0 baseline, 1 AVX2 with FMA, 2 AVX-512 (F, BW, DQ, VL). The names are those of the build's variants.
HAD_EXPORT had_i64 HAD_SYMBOL(cpu_level)(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
  return 0;
}
