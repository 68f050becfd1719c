// What decides how token passes are written for a Hopper GPU: `chip FACT` prints lines "fact: value".
//   nvcc -O3 -std=c++17 -gencode=arch=compute_90a,code=sm_90a -o chip chip.cu
// Each fact has a process of its own, because an error of the device spoils what comes after it in a process.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace cg = cooperative_groups;

void ok(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}
#define OK(call) ok((call), #call)

constexpr int THREADS = 256;
constexpr int SHARED =
    200 * 1024;  // bytes that a block of a cluster kernel would hold: weights and activations

struct Launch {
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attribute[1];

  Launch(int blocks, int shared, cudaStream_t stream = nullptr) {
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = attribute;
  }
  Launch& in_clusters(int size) {
    attribute[0].id = cudaLaunchAttributeClusterDimension;
    attribute[0].val.clusterDim.x = size;
    attribute[0].val.clusterDim.y = attribute[0].val.clusterDim.z = 1;
    config.numAttrs = 1;
    return *this;
  }
  Launch& programmatic() {
    attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[0].val.programmaticStreamSerializationAllowed = 1;
    config.numAttrs = 1;
    return *this;
  }
};

// The least milliseconds of several calls, after one that warms up.
template <typename Call>
float milliseconds(Call call, cudaStream_t stream = nullptr) {
  cudaEvent_t begin, end;
  OK(cudaEventCreate(&begin));
  OK(cudaEventCreate(&end));
  float least = 1e9f;
  for (int i = 0; i < 6; ++i) {
    OK(cudaEventRecord(begin, stream));
    call();
    OK(cudaEventRecord(end, stream));
    OK(cudaEventSynchronize(end));
    float one;
    OK(cudaEventElapsedTime(&one, begin, end));
    if (i > 0) least = std::min(least, one);
  }
  return least;
}

// ---- launches: a chain in a CUDA graph, each kernel reading what the one before it wrote

template <bool PROGRAMMATIC>
__global__ void link(float* x) {
  if (PROGRAMMATIC) {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
  }
  x[blockIdx.x * blockDim.x + threadIdx.x] += 1.0f;
}

void launches() {
  constexpr int KERNELS = 1000;
  float* x;
  OK(cudaMalloc(&x, 1 << 20));
  OK(cudaMemset(x, 0, 1 << 20));
  cudaStream_t stream;
  OK(cudaStreamCreate(&stream));
  for (bool programmatic : {false, true})
    for (int blocks : {1, 64, 132}) {
      Launch launch(blocks, 0, stream);
      if (programmatic) launch.programmatic();
      cudaGraph_t graph;
      OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
      for (int i = 0; i < KERNELS; ++i)
        OK(cudaLaunchKernelEx(&launch.config, programmatic ? link<true> : link<false>, x));
      OK(cudaStreamEndCapture(stream, &graph));
      cudaGraphExec_t ready;
      OK(cudaGraphInstantiate(&ready, graph, 0));
      float ms = milliseconds([&] { OK(cudaGraphLaunch(ready, stream)); }, stream);
      std::printf("a dependent launch in a graph, %d blocks%s, us: %.3f\n", blocks,
                  programmatic ? ", programmatic" : "", ms * 1e3f / KERNELS);
    }
}

// ---- clusters: how many fit, and what their barrier and an exchange of a kilobyte with every block cost

__global__ void cluster_barriers(int rounds, float* out) {
  for (int i = 0; i < rounds; ++i) cg::this_cluster().sync();
  if (threadIdx.x == 0) out[blockIdx.x] = rounds;
}

__global__ void cluster_exchanges(int rounds, float* out) {
  extern __shared__ float held[];
  cg::cluster_group cluster = cg::this_cluster();
  unsigned size = cluster.num_blocks(), rank = cluster.block_rank();
  float value = threadIdx.x;
  for (int i = 0; i < rounds; ++i) {
    unsigned side = (i & 1) * size;  // two sides, so that one barrier a round is enough
    for (unsigned other = 0; other < size; ++other)
      cluster.map_shared_rank(held, other)[(side + rank) * THREADS + threadIdx.x] = value;
    cluster.sync();
    value += held[(side + (rank + 1) % size) * THREADS + threadIdx.x];
  }
  if (threadIdx.x == 0) out[blockIdx.x] = value;
  cluster.sync();  // no block ends while another may write to it
}

void clusters(int size) {
  constexpr int ROUNDS = 10000;
  for (auto kernel : {cluster_barriers, cluster_exchanges}) {
    OK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED));
    if (size > 8) OK(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  }
  Launch asked(size * 16, SHARED);
  int fit = 0;
  OK(cudaOccupancyMaxActiveClusters(&fit, cluster_barriers, &asked.in_clusters(size).config));
  std::printf("clusters of %d blocks of 200 KB that fit: %d\n", size, fit);
  if (fit < 1) return;
  float* out;
  OK(cudaMalloc(&out, 1 << 20));
  Launch launch(fit * size, SHARED);
  launch.in_clusters(size);
  float ms = milliseconds([&] { OK(cudaLaunchKernelEx(&launch.config, cluster_barriers, ROUNDS, out)); });
  std::printf("barrier of a cluster of %d, ns: %.0f\n", size, ms * 1e6f / ROUNDS);
  ms = milliseconds([&] { OK(cudaLaunchKernelEx(&launch.config, cluster_exchanges, ROUNDS, out)); });
  std::printf("1 KB to each block of a cluster of %d and barrier, ns: %.0f\n", size, ms * 1e6f / ROUNDS);
}

// ---- grid: a barrier of all blocks through a counter in L2

__global__ void grid_barriers(int rounds, unsigned* counter) {
  for (unsigned target = gridDim.x; rounds > 0; --rounds, target += gridDim.x) {
    __syncthreads();
    if (threadIdx.x == 0) {
      asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
      unsigned seen = 0;
      while (seen < target)
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
    }
    __syncthreads();
  }
}

void grid(int multiprocessors) {
  int rounds = 5000;
  unsigned* counter;
  OK(cudaMalloc(&counter, sizeof(unsigned)));
  void* arguments[] = {&rounds, &counter};
  float ms = milliseconds([&] {
    OK(cudaMemsetAsync(counter, 0, sizeof(unsigned)));
    auto kernel = reinterpret_cast<const void*>(grid_barriers);
    OK(cudaLaunchCooperativeKernel(kernel, dim3(multiprocessors), dim3(THREADS), arguments, 0, nullptr));
  });
  std::printf("barrier of %d blocks, ns: %.0f\n", multiprocessors, ms * 1e6f / rounds);
}

// ---- l2: the rate at which weights reach shared memory by bulk copies, as a cluster kernel would stream
// them

constexpr int STAGES = 8;

__device__ unsigned in_shared(const void* address) {
  return static_cast<unsigned>(__cvta_generic_to_shared(address));
}

// Block b reads slice b % slices of the weights, `passes` times, in chunks through a ring.
__global__ void stream(const char* weights, long slice_bytes, int slices, int passes, int chunk,
                       unsigned* out) {
  extern __shared__ __align__(128) char ring[];
  __shared__ __align__(8) unsigned long long full[STAGES];
  if (threadIdx.x < STAGES)
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(in_shared(&full[threadIdx.x])) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  __syncthreads();
  const char* own = weights + (blockIdx.x % slices) * slice_bytes;
  int chunks = static_cast<int>(slice_bytes / chunk), total = chunks * passes;
  auto request = [&](int n) {
    unsigned barrier = in_shared(&full[n % STAGES]), target = in_shared(ring + n % STAGES * chunk);
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(chunk)
                 : "memory");
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
            target),
        "l"(own + static_cast<long>(n % chunks) * chunk), "r"(chunk), "r"(barrier)
        : "memory");
  };
  if (threadIdx.x == 0)
    for (int n = 0; n < STAGES && n < total; ++n) request(n);
  unsigned sum = 0;
  for (int n = 0; n < total; ++n) {
    unsigned barrier = in_shared(&full[n % STAGES]), parity = n / STAGES & 1, there = 0;
    while (!there)
      asm volatile(
          "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
          : "=r"(there)
          : "r"(barrier), "r"(parity)
          : "memory");
    sum += *reinterpret_cast<unsigned*>(ring + n % STAGES * chunk + threadIdx.x * 4);
    __syncthreads();  // all have read this chunk before the next one takes its place
    if (threadIdx.x == 0 && n + STAGES < total) request(n + STAGES);
  }
  out[blockIdx.x * THREADS + threadIdx.x] = sum;
}

void l2(int multiprocessors) {
  constexpr long WEIGHTS =
      15 << 20;  // about the paper's ten layers in two bytes a number, a multiple of all slices
  constexpr int PASSES = 40, CHUNK = 16384;
  char* weights;
  unsigned* out;
  OK(cudaMalloc(&weights, WEIGHTS));
  OK(cudaMemset(weights, 1, WEIGHTS));
  OK(cudaMalloc(&out, 1 << 20));
  OK(cudaFuncSetAttribute(stream, cudaFuncAttributeMaxDynamicSharedMemorySize, STAGES * CHUNK));
  for (int slices : {8, 16}) {
    int blocks = multiprocessors / slices * slices;
    Launch launch(blocks, STAGES * CHUNK);
    float ms = milliseconds([&] {
      const char* from = weights;
      OK(cudaLaunchKernelEx(&launch.config, stream, from, WEIGHTS / slices, slices, PASSES, CHUNK, out));
    });
    double bytes = static_cast<double>(WEIGHTS) / slices * blocks * PASSES;
    std::printf("L2 to shared memory, %d blocks of a slice of 1/%d each, TB/s: %.2f\n", blocks, slices,
                bytes / ms / 1e9);
    std::printf("weights of all layers to each of %d clusters of %d, us: %.1f\n", blocks / slices, slices,
                ms * 1e3f / PASSES);
  }
}

int main(int count, char** arguments) {
  const char* fact = count > 1 ? arguments[1] : "";
  cudaDeviceProp found;
  OK(cudaGetDeviceProperties(&found, 0));
  if (!std::strcmp(fact, "launches"))
    launches();
  else if (!std::strcmp(fact, "clusters_of_8"))
    clusters(8);
  else if (!std::strcmp(fact, "clusters_of_16"))
    clusters(16);
  else if (!std::strcmp(fact, "grid"))
    grid(found.multiProcessorCount);
  else if (!std::strcmp(fact, "l2"))
    l2(found.multiProcessorCount);
  else
    return std::printf("there is no fact '%s'\n", fact), 2;
  OK(cudaDeviceSynchronize());
  return 0;
}
