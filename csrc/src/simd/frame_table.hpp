// The kernels over feature maps of one level.
#pragma once

#include "int8_product.hpp"
#include "level.hpp"
#include "normalize.hpp"
#include "product.hpp"
#include "winograd.hpp"

namespace iris_fast::IRIS_FAST_LEVEL {

inline constexpr FrameKernels frame_kernels = {
    kProductVectors,
    product,
    int8_product,
    quantize,
    {winograd_transforms<TwoOutputs>(), winograd_transforms<FourOutputs>(),
     winograd_transforms<TwoOutputsEnlarged>()},
    channel_sums,
    normalize,
    pool,
    softmax};

}  // namespace iris_fast::IRIS_FAST_LEVEL
