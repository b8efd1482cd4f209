// The GPU text of the kernels, run on the CPU: threads of a block and blocks of a grid one after the other. The wrappers
// take the grid first and then the kernel's own arguments, so Python calls them like a launch.
#include "lif.cu"
#include "event_lif.cu"

#include <utility>

template <class Kernel, class... Arguments>
static void run(int grid, int block, Kernel kernel, Arguments... arguments) {
  gridDim = {(unsigned)grid, 1, 1};
  blockDim = {(unsigned)block, 1, 1};
  for (unsigned b = 0; b < gridDim.x; ++b)
    for (unsigned t = 0; t < blockDim.x; ++t) {
      blockIdx = {b, 0, 0};
      threadIdx = {t, 0, 0};
      kernel(arguments...);
    }
}

template <class... A, size_t... I>
static void unpack(int grid, int block, void (*kernel)(A...), void** values, std::index_sequence<I...>) {
  run(grid, block, kernel, *static_cast<A*>(values[I])...);
}
template <class... A>
static void launch(int grid, int block, void (*kernel)(A...), void** values) {
  unpack(grid, block, kernel, values, std::index_sequence_for<A...>());
}

// `values` are addresses of the arguments, as cuLaunchKernel takes them.
extern "C" void shim_lif_forward(int grid, int block, void** values) { launch(grid, block, had_lif_forward, values); }
extern "C" void shim_lif_backward(int grid, int block, void** values) { launch(grid, block, had_lif_backward, values); }
extern "C" void shim_event_lif_forward(int grid, int block, void** values) {
  launch(grid, block, had_event_lif_forward, values);
}
extern "C" void shim_event_lif_backward(int grid, int block, void** values) {
  launch(grid, block, had_event_lif_backward, values);
}
