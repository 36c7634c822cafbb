package main

// Package syscall is older than seccomp(2) and execveat(2).
const (
	sysSeccomp  = 317
	sysExecveat = 322
)
