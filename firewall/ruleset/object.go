package ruleset

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"

	"vifproxy/internal/netlink"
)

// Object is what a message of the kernel says about a table, chain, rule, set or generation.
type Object struct {
	Family byte
	attrs  []byte // of which all are well formed; what is nested in them may not be
}

// Numbers from the kernel's include/uapi/linux/netfilter/nf_tables.h that package unix lacks.
const (
	TableHandle   = 4  // NFTA_TABLE_HANDLE
	ChainFlags    = 10 // NFTA_CHAIN_FLAGS
	SetHandle     = 16 // NFTA_SET_HANDLE
	SetElemKeyEnd = 10 // NFTA_SET_ELEM_KEY_END
)

const headerSize = 4 // of struct nfgenmsg

// Parse reads the body of a message.
func Parse(body []byte) (Object, error) {
	if len(body) < headerSize {
		return Object{}, netlink.ErrMalformed
	}
	o := Object{Family: body[0], attrs: body[headerSize:]}
	return o, netlink.Check(o.attrs)
}

// Get returns an attribute; nil if it is not there.
func (o Object) Get(attr uint16) []byte {
	var d netlink.Decoder
	return d.Find(o.attrs, attr)
}

// Table returns the name of the object's table. Those of another family than ip have it before the name, as nft
// writes it.
func (o Object) Table(attr uint16) string {
	switch o.Family {
	case unix.NFPROTO_IPV4:
		return o.Text(attr)
	case unix.NFPROTO_INET:
		return "inet " + o.Text(attr)
	default:
		return fmt.Sprintf("family %d %s", o.Family, o.Text(attr))
	}
}

// Text returns an attribute that is a string.
func (o Object) Text(attr uint16) string {
	return string(bytes.TrimSuffix(o.Get(attr), []byte{0}))
}

// Number returns an unsigned number of any size; one that is not there is 0.
func (o Object) Number(attr uint16) (n uint64) {
	for _, b := range o.Get(attr) {
		n = n<<8 | uint64(b)
	}
	return n
}
