package expression

// A Charset is a set of bytes: in the C locale, in which tinyproxy runs, a character is a byte.
type Charset [4]uint64

// Has reports whether a byte is in the set.
func (s *Charset) Has(c byte) bool { return s[c/64]>>(c%64)&1 != 0 }

func (s *Charset) add(c byte) { s[c/64] |= 1 << (c % 64) }

// charsetOf returns the bytes for which is returns true.
func charsetOf(is func(c byte) bool) (s Charset) {
	for c := range 256 {
		if is(byte(c)) {
			s.add(byte(c))
		}
	}
	return s
}

// within reports whether all characters of s are in other.
func (s Charset) within(other Charset) bool {
	for i, word := range s {
		if word&^other[i] != 0 {
			return false
		}
	}
	return true
}

// hostChars are the characters of host names. HostClass is the same as text.
var hostChars = charsetOf(func(c byte) bool {
	return isLower(c) || isUpper(c) || isDigit(c) || c == '.' || c == '_' || c == '-'
})
