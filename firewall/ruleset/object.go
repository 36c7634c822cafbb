package ruleset

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"

	"vifproxy/internal/netlink"
)

// An Object is a message of the kernel about a table, chain, rule, set or generation.
type Object struct {
	Family byte
	attrs  []byte // well formed, but attributes nested in them may not be
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

// Table returns the name of the object's table as nft writes it: with the family before the name if that is not ip.
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

// Number returns an unsigned number of any size; 0 if it is not there.
func (o Object) Number(attr uint16) (n uint64) {
	for _, b := range o.Get(attr) {
		n = n<<8 | uint64(b)
	}
	return n
}
