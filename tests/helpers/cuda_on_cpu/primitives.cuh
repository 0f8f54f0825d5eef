// In place of `kernels/cuda/primitives.cuh`: the kernels as C++ of a CPU. Every thread of a block is a fiber, which
// runs until it has to wait for others. Several blocks are under way at a time, in an order that a seed decides.
//
// Compiled with -fsanitize=thread the fibers are told to be threads, and barriers and announcements to order them: an
// access that nothing orders is reported. Shared memory begins as NaN; an asynchronous copy arrives when it is waited
// for, not before.

#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __launch_bounds__(...)

#if defined(__SANITIZE_THREAD__)
extern "C" {
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void* __tsan_get_current_fiber();
void __tsan_acquire(void*);
void __tsan_release(void*);
}
constexpr unsigned IN_NO_ORDER = 1;  // a switch does not order what comes before it and after it
constexpr bool WATCHED = true;
#else
inline void* __tsan_create_fiber(unsigned) { return nullptr; }
inline void __tsan_destroy_fiber(void*) {}
inline void __tsan_switch_to_fiber(void*, unsigned) {}
inline void* __tsan_get_current_fiber() { return nullptr; }
inline void __tsan_acquire(void*) {}
inline void __tsan_release(void*) {}
constexpr unsigned IN_NO_ORDER = 0;
constexpr bool WATCHED = false;
#endif

struct alignas(16) double2 {
    double x, y;
};
inline double2 make_double2(double x, double y) { return {x, y}; }
struct Place {
    int x, y = 0, z = 0;
};
using std::isfinite;
using std::min;

namespace on_cpu {

constexpr int WARP = 32;
constexpr std::size_t STACK = 128 * 1024;

struct Barrier {
    int arrived = 0, generation = 0, number = 0, result = 0;
};

struct Copy {
    double* to;
    const double* from;
    bool there;
};

struct Warp {
    Barrier barrier;
    double a[2][WARP][4], b[2][WARP][2];
};

struct Block;

struct Fiber {
    Block* block;
    Place thread;
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[STACK]};
    void* tsan = nullptr;
    bool done = false;
    const int* waits_for = nullptr;  // a generation that is still `generation`
    int generation = 0, turn = 0;
    std::vector<Copy> open;
    std::vector<std::vector<Copy>> groups;
};

struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::unique_ptr<double2[]> shared;
    Barrier all, some;
    int left;
};

inline Fiber* running;          // see `now`
inline ucontext_t scheduler;
inline void* scheduler_tsan;
inline long progress;           // counts what is not merely looking again
inline char begun, ended;       // their addresses stand for the order of the launch before, and after, its threads

// What the fibers share with the scheduler is in no order that a sanitizer could know of, and need not be.
#define UNWATCHED __attribute__((no_sanitize("thread"), noinline))

// The fiber that runs.
UNWATCHED inline Fiber* now() { return running; }

UNWATCHED inline void go_on() { progress++; }

UNWATCHED inline void pause() {
    Fiber* me = running;
    __tsan_switch_to_fiber(scheduler_tsan, IN_NO_ORDER);
    swapcontext(&me->context, &scheduler);
}

// Until `threads` threads have come; adds up what they bring. `orders`: what they did before comes before what they do
// after it.
UNWATCHED inline int meet(Barrier& barrier, int threads, int number = 0, bool orders = true) {
    if (orders) __tsan_release(&barrier);
    Fiber* me = running;
    barrier.number += number;
    progress += threads > WARP;  // a loop that waits has a warp meet every time
    if (++barrier.arrived == threads) {
        barrier.result = barrier.number;
        barrier.arrived = barrier.number = 0;
        barrier.generation++;
    } else {
        me->waits_for = &barrier.generation;
        me->generation = barrier.generation;
        pause();
    }
    if (orders) __tsan_acquire(&barrier);
    return barrier.result;
}

inline Warp& warp() { return now()->block->warps[now()->thread.x / WARP]; }

inline void fail(const char* what) {
    std::fprintf(stderr, "%s, thread %d\n", what, running ? running->thread.x : -1);
    std::abort();
}

}  // namespace on_cpu

#define threadIdx (on_cpu::now()->thread)
#define SHARED_MEMORY(name) double* name = (double*)on_cpu::now()->block->shared.get()

inline void __syncthreads() { on_cpu::meet(on_cpu::now()->block->all, on_cpu::now()->block->fibers.size()); }
inline int __syncthreads_count(bool x) {
    return on_cpu::meet(on_cpu::now()->block->all, on_cpu::now()->block->fibers.size(), x);
}
inline void __syncwarp() { on_cpu::meet(on_cpu::warp().barrier, on_cpu::WARP); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline void barrier_of(int threads) { on_cpu::meet(on_cpu::now()->block->some, threads); }

// From an approximation like the GPU's: its upper 32 bits only, and subnormal numbers are taken as zeros.
inline double reciprocal(double x) {
    double y = std::fabs(x) < 0x1p-1022 ? std::copysign(HUGE_VAL, x) : 1.0 / x;
    std::uint64_t bits;
    std::memcpy(&bits, &y, 8);
    bits &= ~0xFFFFFFFFull;
    std::memcpy(&y, &bits, 8);
    if (std::fabs(y) < 0x1p-1022) y = std::copysign(0.0, x);
    double e = std::fma(-x, y, 1.0);
    return std::fma(y, std::fma(e, e, e), y);
}

inline void multiply_add(double (&c)[4], const double (&a)[4], const double (&b)[2]) {
    on_cpu::go_on();
    on_cpu::Warp& warp = on_cpu::warp();
    int lane = threadIdx.x % on_cpu::WARP, g = lane / 4, t = lane % 4, turn = on_cpu::now()->turn ^= 1;
    std::copy(a, a + 4, warp.a[turn][lane]);
    std::copy(b, b + 2, warp.b[turn][lane]);
    on_cpu::meet(warp.barrier, on_cpu::WARP);
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 8; k++) {
            double left = warp.a[turn][4 * g + k % 4][k / 4 * 2 + i / 2];
            double right = warp.b[turn][4 * (2 * t + i % 2) + k % 4][k / 4];
            c[i] = std::fma(left, right, c[i]);
        }
}

inline unsigned bits_of_warp(bool x) {
    on_cpu::Warp& warp = on_cpu::warp();
    int lane = threadIdx.x % on_cpu::WARP;
    return on_cpu::meet(warp.barrier, on_cpu::WARP, (int)(unsigned(x) << lane), false);
}
inline bool any_in_warp(bool x) { return bits_of_warp(x) != 0; }

inline void copy_16(double* shared, const double* global, bool there) {
    if ((std::uintptr_t)shared % 16 || (there && (std::uintptr_t)global % 16)) on_cpu::fail("a copy is misaligned");
    shared[0] = shared[1] = std::numeric_limits<double>::quiet_NaN();
    on_cpu::now()->open.push_back({shared, global, there});
}
inline void end_group() {
    on_cpu::now()->groups.push_back(std::move(on_cpu::now()->open));
    on_cpu::now()->open.clear();
}
template <int LEFT>
inline void wait_groups() {
    auto& groups = on_cpu::now()->groups;
    for (; groups.size() > LEFT; groups.erase(groups.begin()))
        for (const on_cpu::Copy& copy : groups.front())
            for (int i = 0; i < 2; i++) copy.to[i] = copy.there ? copy.from[i] : 0.0;
}

inline int seen(const int* p) {
    on_cpu::pause();
    int x = __atomic_load_n(p, __ATOMIC_RELAXED);
    __tsan_acquire((void*)p);
    return x;
}
struct Patience {
    void look() {}  // the scheduler notices when nothing goes on
};
UNWATCHED inline void announce(int* p, int more) {
    on_cpu::progress++;
    __tsan_release(p);
    __atomic_fetch_add(p, more, __ATOMIC_RELAXED);
}
inline long long latest(const long long* p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
UNWATCHED inline int ticket(unsigned* counter, int n) {
    unsigned x = *counter;
    *counter = x >= unsigned(n - 1) ? 0 : x + 1;
    return x;
}

namespace on_cpu {

// Arguments of a kernel from 64-bit words: addresses, or integers.
template <class T>
T argument(std::uint64_t word) {
    if constexpr (std::is_pointer_v<T>) return (T)word;
    else return (T)(std::int64_t)word;
}
template <class... A, std::size_t... I>
void call(void (*kernel)(A...), const std::uint64_t* words, std::index_sequence<I...>) {
    kernel(argument<A>(words[I])...);
}
template <class... A>
void call(void (*kernel)(A...), const std::uint64_t* words) {
    call(kernel, words, std::index_sequence_for<A...>());
}

inline void (*body)(const std::uint64_t*);
inline const std::uint64_t* given;

UNWATCHED inline void main_of_fiber() {
    __tsan_acquire(&begun);
    body(given);
    __tsan_release(&ended);
    running->done = true;
    running->block->left--;
    progress++;
    pause();
}

UNWATCHED inline std::unique_ptr<Block> start(int threads, int shared_bytes) {
    auto block = std::make_unique<Block>();
    block->fibers = std::vector<Fiber>(threads);
    block->warps = std::vector<Warp>(threads / WARP);
    block->shared.reset(new double2[(shared_bytes + 15) / 16]);
    double nan = std::numeric_limits<double>::quiet_NaN();
    std::fill_n(block->shared.get(), (shared_bytes + 15) / 16, double2{nan, nan});
    block->left = threads;
    for (int i = 0; i < threads; i++) {
        Fiber& fiber = block->fibers[i];
        fiber.block = block.get();
        fiber.thread = {i};
        fiber.tsan = __tsan_create_fiber(0);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, main_of_fiber, 0);
    }
    return block;
}

// Runs all blocks of a launch, `resident` at a time. With a seed of 0 blocks and threads take their turns in order,
// else in one that changes. Returns 0, or 1 where all that is left waits for what never comes.
UNWATCHED inline int run(void (*kernel)(const std::uint64_t*), const std::uint64_t* words, int blocks, int threads,
               int shared_bytes, int resident, unsigned seed) {
    body = kernel;
    given = words;
    scheduler_tsan = __tsan_get_current_fiber();
    std::mt19937 generator(seed);
    std::vector<std::unique_ptr<Block>> under_way, done;
    int idle = 0;
    __tsan_release(&begun);
    while (blocks > 0 || !under_way.empty()) {
        while (blocks > 0 && (int)under_way.size() < resident) {
            under_way.push_back(start(threads, shared_bytes));
            __tsan_release(&begun);
            blocks--;
        }
        if (seed) std::shuffle(under_way.begin(), under_way.end(), generator);
        bool backwards = seed && generator() % 2;
        long before = progress;
        for (auto& block : under_way)
            for (int i = 0; i < threads; i++) {
                Fiber& fiber = block->fibers[backwards ? threads - 1 - i : i];
                if (fiber.done || (fiber.waits_for && *fiber.waits_for == fiber.generation)) continue;
                fiber.waits_for = nullptr;
                running = &fiber;
                __tsan_switch_to_fiber(fiber.tsan, IN_NO_ORDER);
                swapcontext(&scheduler, &fiber.context);
            }
        running = nullptr;
        for (auto& block : under_way)
            if (block->left == 0) done.push_back(std::move(block));
        under_way.erase(std::remove(under_way.begin(), under_way.end(), nullptr), under_way.end());
        if (!WATCHED) done.clear();  // where it is, to end one would order it before those that come later
        idle = progress == before ? idle + 1 : 0;
        if (idle > 100) return 1;
    }
    __tsan_acquire(&ended);
    for (auto& block : done)
        for (Fiber& fiber : block->fibers) __tsan_destroy_fiber(fiber.tsan);
    return 0;
}

}  // namespace on_cpu
