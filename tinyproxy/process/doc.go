// Package process runs tinyproxy processes, one or more for an AppVM.
//
// A proxy is one process that never changes its mind. Its configuration and rules are written to a directory of its own. It
// starts under a uid of its own, and it counts as started when the kernel says that it listens and handles signals. Other
// rules mean another process on another port, because tinyproxy's own reload crashes under load; the start of that process
// is the check of the new rules. The caller decides which of several processes an AppVM reaches.
//
// Nothing outlives the daemon. Proxies are children with a parent-death signal, which the kernel sends when the thread that
// forked ends and not the process (prctl(2)), so a few threads that live as long as the Launcher do all the forking. Reap
// finds by uid, at the next start, what a proxy forked in its turn.
//
// The daemon may be root, or another user with CAP_SETUID, CAP_SETGID, CAP_SETPCAP and CAP_KILL, as in its unit. A proxy has
// no capability in either case.
//
// This package makes and removes these files. Its user can read all of them, and a proxy's gid what the proxy reads:
//
//	RUNTIME/NAME/61000/config  what tinyproxy runs with, while it runs
//	RUNTIME/NAME/61000/rules   what it reads as its filter: our copy, never the user's file
//	RUNTIME/NAME/61000/refused.html, unreached.html  what it answers where it gets no page; see errorPage
//	RUNTIME/NAME/config        symlink to the config of the process that serves the AppVM now
//	RUNTIME/NAME/pid           its pid, where the template has PidFile
//	RUNTIME/NAME/log, log.1    what the processes say; stays readable until Close, also when the VM has left
//
// Concurrency: a Launcher and its Proxies may be used from any goroutine, but the proxies of one AppVM start one after the
// other, and no call is under way during or after Close. Callbacks (OnDenied, OnLogProblem, WhenDone) come from goroutines of
// this package and must not wait.
package process
