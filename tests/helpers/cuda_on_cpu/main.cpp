// A launch in a process of its own, which a sanitizer can watch:
//
//     PROGRAM ARGUMENTS BLOCKS THREADS SHARED RESIDENT SEED
//
// ARGUMENTS is a file: for each argument of the kernel the number of its bytes and, for an array, these, or -1 and an
// integer; all numbers have 64 bits. What the kernel leaves in the arrays is written in their place.

#include <cstring>
#include <fstream>

#include "launch.cpp"

int main(int, char** given) {
    std::fstream file(given[1], std::ios::in | std::ios::out | std::ios::binary);
    std::vector<std::uint64_t> words;
    std::vector<std::pair<std::streamoff, std::int64_t>> places;  // where an array is in the file, and its size
    std::int64_t size, value;
    while (file.read((char*)&size, 8)) {
        places.push_back({(std::streamoff)file.tellg(), size});
        if (size < 0) {
            file.read((char*)&value, 8);
            words.push_back(value);
        } else {
            void* array = nullptr;
            if (posix_memalign(&array, 256, size)) return 2;
            file.read((char*)array, size);
            words.push_back((std::uint64_t)array);
        }
    }
    int numbers[5];
    for (int i = 0; i < 5; i++) numbers[i] = std::atoi(given[2 + i]);
    int failed = LAUNCH(words.data(), numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]);
    file.clear();
    for (std::size_t i = 0; i < words.size(); i++)
        if (places[i].second >= 0) {
            file.seekp(places[i].first);
            file.write((char*)words[i], places[i].second);
            std::free((void*)words[i]);
        }
    return failed;
}
