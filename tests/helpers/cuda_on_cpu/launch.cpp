// The kernels of a `.cu` file, compiled with this folder's `primitives.cuh`, as functions of a shared library: one for
// each name in KERNELS, X(ldl_one) X(ldl_many).

#include SOURCE

#define X(name)                                                                                                       \
    extern "C" int launch_##name(const std::uint64_t* words, int blocks, int threads, int shared, int resident,       \
                                 unsigned seed) {                                                                     \
        return on_cpu::run([](const std::uint64_t* w) { on_cpu::call(name, w); }, words, blocks, threads, shared,     \
                           resident, seed);                                                                           \
    }
KERNELS
