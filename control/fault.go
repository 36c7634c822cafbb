package control

import "net/http"

// DaemonError is an answer of the daemon that says why a verb was not done.
type DaemonError struct {
	Fault   Fault  `json:"-"`
	Message string `json:"error"`
}

func (e *DaemonError) Error() string { return e.Message }

// A Fault says where the reason is that a verb was not done.
type Fault int

const (
	Internal  Fault = iota // in the daemon
	Invalid                // in the request, whatever the state of the daemon
	Conflict               // in rule files or the template, which do not permit it
	Unknown                // there is no such VM, or no such verb
	Forbidden              // this user may not use the socket
	TooLong                // the request has too many bytes
	TooSlow                // the request took too long to arrive
	TooMany                // too many clients want the same
	Stopping               // the daemon is stopping
)

// statuses are the HTTP statuses that stand for faults between server and client.
var statuses = map[Fault]int{
	Internal:  http.StatusInternalServerError,
	Invalid:   http.StatusBadRequest,
	Conflict:  http.StatusConflict,
	Unknown:   http.StatusNotFound,
	Forbidden: http.StatusForbidden,
	TooLong:   http.StatusRequestEntityTooLarge,
	TooSlow:   http.StatusRequestTimeout,
	TooMany:   http.StatusTooManyRequests,
	Stopping:  http.StatusServiceUnavailable,
}

// faultOf returns the fault that an HTTP status stands for. A status that the daemon does not use is its fault.
func faultOf(status int) Fault {
	for fault, s := range statuses {
		if s == status {
			return fault
		}
	}
	return Internal
}
