// Reads layers' weights by name and packs them layer by layer.
#pragma once

#include <string>
#include <vector>

#include "kernel_table.hpp"
#include "packed_layers.hpp"

namespace iris_fast {

// Where column `column` of inner index `inner_index` lies in weights packed by panels of `panel` columns.
std::size_t packed_index(std::size_t panel, std::size_t inner, std::size_t columns, std::size_t inner_index,
                         std::size_t column);

class FramePacker {
 public:
  FramePacker(std::size_t panel_vectors, const FindWeight& find)
      : panel_(panel_vectors * kLanes), find_(find) {}

  PackedGroupNorm norm(const std::string& name, std::size_t channels, std::size_t groups,
                       float epsilon) const;

  // A 1 x 1 convolution on padded channels.
  PackedProduct pointwise(const std::string& name, std::size_t outputs, std::size_t inputs) const;
  // Several 1 x 1 convolutions of one input side by side, each padded to whole vectors.
  PackedProduct pointwise(const std::vector<std::string>& names, std::size_t outputs,
                          std::size_t inputs) const;
  // A 3 x 3 convolution read line by line: 3 taps of 3 positions of `stride` floats.
  PackedProduct lines(const std::string& name, std::size_t outputs, std::size_t inputs,
                      std::size_t stride) const;
  // A 3 x 3 convolution as a product from one position to its share in the 9 outputs around it, without bias:
  // columns (tap, output), `tap_columns` a tap.
  PackedProduct shares(const std::string& name, std::size_t outputs, std::size_t inputs,
                       std::size_t tap_columns) const;
  // The rows of a matrix (outputs, inputs) as codewords.
  PackedCodebook codebook(const std::string& name, std::size_t outputs, std::size_t inputs) const;
  // The kind for maps of that resolution.
  static Winograd kind_for(std::size_t resolution);
  PackedWinograd winograd(const std::string& name, std::size_t outputs, std::size_t inputs,
                          Winograd kind) const;
  // A 3 x 3 convolution of int8; std::invalid_argument for weights that are not finite.
  PackedInt8Convolution integers(const std::string& name, std::size_t outputs, std::size_t inputs,
                                 bool enlarged) const;

 private:
  PackedProduct empty(std::size_t taps, std::size_t inner, std::size_t columns) const;
  float& at(PackedProduct& packed, std::size_t inner_index, std::size_t column) const;

  std::size_t panel_;
  const FindWeight& find_;
};

}  // namespace iris_fast
