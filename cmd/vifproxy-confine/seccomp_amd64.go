package main

const sysSeccomp = 317 // package syscall is older than seccomp(2)
