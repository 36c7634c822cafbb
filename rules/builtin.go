package rules

import _ "embed"

//go:embed builtin.conf
var builtinText string

// Builtin returns the template that is used where the user has none: a white list under default deny, for one
// AppVM, CONNECT to port 443 only.
func Builtin() Template {
	t, err := ParseTemplate("", builtinText)
	if err != nil {
		panic("rules: built-in template: " + err.Error())
	}
	return t
}
