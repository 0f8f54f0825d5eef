#ifndef WIDTH
#define WIDTH 2
#endif
