package rules

import _ "embed"

//go:embed builtin.conf
var builtinText string

// Builtin returns the template for users who have none: white lists under default deny, and CONNECT to port 443 only.
func Builtin() Template {
	t, err := ParseTemplate("", builtinText)
	if err != nil {
		panic("rules: built-in template: " + err.Error())
	}
	return t
}
