package netlink

import (
	"encoding/binary"
	"errors"
	"iter"

	"golang.org/x/sys/unix"
)

// ErrMalformed is the error of an answer that is not what the kernel sends. Part of it may be missing, so none of it counts.
var ErrMalformed = errors.New("malformed netlink message")

// Append appends an attribute to those in to: length, kind, data, padded to a multiple of 4 bytes.
func Append(to []byte, kind uint16, data ...byte) []byte {
	to = binary.NativeEndian.AppendUint16(to, uint16(unix.SizeofNlAttr+len(data)))
	to = binary.NativeEndian.AppendUint16(to, kind)
	to = append(to, data...)
	return append(to, make([]byte, -len(data)&3)...)
}

// AppendString appends an attribute that is a string, with the zero at its end.
func AppendString(to []byte, kind uint16, text string) []byte {
	return Append(to, kind, append([]byte(text), 0)...)
}

// AppendNested appends an attribute that consists of those that fill appends.
func AppendNested(to []byte, kind uint16, fill func(to []byte) []byte) []byte {
	start := len(to)
	to = fill(Append(to, unix.NLA_F_NESTED|kind))
	binary.NativeEndian.PutUint16(to[start:], uint16(len(to)-start))
	return to
}

// next splits off the first attribute of b, which is not empty.
func next(b []byte) (kind uint16, value, rest []byte, ok bool) {
	if len(b) < unix.SizeofNlAttr {
		return 0, nil, nil, false
	}
	size := int(binary.NativeEndian.Uint16(b))
	if size < unix.SizeofNlAttr || size > len(b) {
		return 0, nil, nil, false
	}
	kind = binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
	return kind, b[unix.SizeofNlAttr:size], b[min((size+3)&^3, len(b)):], true
}

// A Decoder finds attributes in answers, and remembers whether any of them was malformed.
type Decoder struct{ err error }

// Err returns ErrMalformed if something that the Decoder has read was malformed.
func (d *Decoder) Err() error { return d.err }

// All yields the attributes of b up to its end, or to the first that is malformed.
func (d *Decoder) All(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(kind uint16, value []byte) bool) {
		for len(b) > 0 {
			kind, value, rest, ok := next(b)
			if !ok {
				d.err = ErrMalformed
				return
			}
			if !yield(kind, value) {
				return
			}
			b = rest
		}
	}
}

// Find returns the attribute of the first kind in b, and in there that of the second kind, and so on. It returns nil if one
// of them is missing.
func (d *Decoder) Find(b []byte, path ...uint16) []byte {
	for _, wanted := range path {
		var found []byte
		for len(b) > 0 {
			kind, value, rest, ok := next(b)
			if !ok {
				d.err = ErrMalformed
				return nil
			}
			if kind == wanted {
				found = value
				break
			}
			b = rest
		}
		if found == nil {
			return nil
		}
		b = found
	}
	return b
}

// Check returns ErrMalformed if b is no list of attributes.
func Check(b []byte) error {
	for len(b) > 0 {
		_, _, rest, ok := next(b)
		if !ok {
			return ErrMalformed
		}
		b = rest
	}
	return nil
}
