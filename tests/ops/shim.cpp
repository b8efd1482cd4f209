// The GPU text of the kernels, run on the CPU: threads of a block and blocks of a grid one after the other. The wrappers
// take the grid first and then the address of the kernel's parameters, as a launch does.
#include "event_lif.cu"
#include "lif.cu"

template <class Parameters>
static void run(int grid, int block, void (*kernel)(Parameters), const void* given) {
  gridDim = {(unsigned)grid, 1, 1};
  blockDim = {(unsigned)block, 1, 1};
  for (unsigned b = 0; b < gridDim.x; ++b)
    for (unsigned t = 0; t < blockDim.x; ++t) {
      blockIdx = {b, 0, 0};
      threadIdx = {t, 0, 0};
      Parameters parameters;
      memcpy((void*)&parameters, given, sizeof parameters);
      kernel(parameters);
    }
}

extern "C" void shim_lif_forward(int grid, int block, const void* p) { run(grid, block, had_lif_forward, p); }
extern "C" void shim_lif_backward(int grid, int block, const void* p) { run(grid, block, had_lif_backward, p); }
extern "C" void shim_event_lif_forward(int grid, int block, const void* p) { run(grid, block, had_event_lif_forward, p); }
extern "C" void shim_event_lif_backward(int grid, int block, const void* p) {
  run(grid, block, had_event_lif_backward, p);
}
