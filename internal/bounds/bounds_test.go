// Package bounds_test holds docs/bounds.md against the constants in the sources.
package bounds_test

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const top = "../.."

// place is where a bound is set: a Go constant or variable, a field of a variable ("defaults.send"), or a setting of the
// unit.
type place struct{ file, name string }

func (p place) String() string { return p.name + " in " + p.file }

// row is one line of the table: | bound | value | reason | `name` in file |
var row = regexp.MustCompile("^\\| ([^|]+) \\| ([^|]+) \\| ([^|]+) \\| `([^`]+)` in ([^ |]+) \\|$")

// documented returns the values of the table by their places.
func documented(t *testing.T) map[place]string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(top, "docs/bounds.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[place]string)
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSuffix(line, "\n")
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|-") || strings.HasPrefix(line, "| bound |") {
			continue
		}
		m := row.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("docs/bounds.md: this is no row \"| bound | value | reason | `name` in file |\":\n%s", line)
			continue
		}
		at := place{m[5], m[4]}
		if _, twice := rows[at]; twice {
			t.Errorf("docs/bounds.md: two rows for %s", at)
		}
		rows[at] = m[2]
	}
	return rows
}

// A value that ends in one of these is a number of nanoseconds, or of bytes.
var units = map[string]int64{
	"ns": 1, "µs": 1e3, "ms": 1e6, "s": 1e9, "min": 60e9, "h": 3600e9, "d": 24 * 3600e9,
	"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
}

var quantity = regexp.MustCompile(`^(-?[0-9]+)(?: (ns|µs|ms|s|min|h|d|B|KiB|MiB|GiB)(?:/s)?)?$`)

// says reports whether a value as people read it is the number of a constant. Some constants count seconds.
func says(value string, is constant.Value) bool {
	m := quantity.FindStringSubmatch(value)
	if m == nil {
		return false
	}
	number := constant.MakeFromLiteral(strings.TrimPrefix(m[1], "-"), token.INT, 0)
	if m[1][0] == '-' {
		number = constant.UnaryOp(token.SUB, number, 0)
	}
	number = constant.BinaryOp(number, token.MUL, constant.MakeInt64(cmp.Or(units[m[2]], 1)))
	equal := func(is constant.Value) bool { return constant.Compare(number, token.EQL, is) }
	return equal(is) || units[m[2]] >= 1e9 && equal(constant.BinaryOp(is, token.MUL, constant.MakeInt64(1e9)))
}

var ofTime = map[string]int64{
	"Nanosecond": 1, "Microsecond": 1e3, "Millisecond": 1e6, "Second": 1e9, "Minute": 60e9, "Hour": 3600e9,
}

// source is the values that a Go file sets.
type source struct {
	values  map[string]ast.Expr // by name, or by variable and field
	bounds  map[string]bool     // the constants that bound something
	unnamed []token.Position    // times and sizes in the midst of code
}

// limiting are words in the names of constants that bound something.
var limiting = regexp.MustCompile(`^(max|most|min|least|widest|per|each|total)($|[A-Z0-9])|` +
	`(Max|Most|Least|Bound|Budget|Burst|Rate|Share|Backlog|Tries|Attempts|PerCPU)$`)

func read(t *testing.T, path string) source {
	t.Helper()
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, filepath.Join(top, path), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	s := source{values: map[string]ast.Expr{}, bounds: map[string]bool{}}
	ast.Inspect(file, func(n ast.Node) bool {
		if product, ok := n.(*ast.BinaryExpr); ok && isLiteral(product.X) && isQuantity(product) {
			s.unnamed = append(s.unnamed, files.Position(n.Pos()))
		}
		declaration, ok := n.(*ast.GenDecl)
		if !ok || declaration.Tok != token.CONST && declaration.Tok != token.VAR {
			return true
		}
		for _, spec := range declaration.Specs {
			spec := spec.(*ast.ValueSpec)
			for i, value := range spec.Values {
				if i < len(spec.Names) {
					s.declare(spec.Names[i].Name, value, declaration.Tok == token.CONST)
				}
			}
		}
		return false
	})
	return s
}

func isLiteral(e ast.Expr) bool {
	literal, ok := e.(*ast.BasicLit)
	return ok && literal.Kind == token.INT
}

func (s source) declare(name string, value ast.Expr, isConstant bool) {
	s.values[name] = value
	if fields, ok := value.(*ast.CompositeLit); ok {
		for _, field := range fields.Elts {
			if field, ok := field.(*ast.KeyValueExpr); ok {
				s.values[fmt.Sprintf("%s.%s", name, field.Key)] = field.Value
			}
		}
	}
	if isConstant && (limiting.MatchString(name) || isQuantity(value)) {
		_, isNumber := s.eval(value)
		s.bounds[name] = isNumber
	}
}

// isQuantity reports whether an expression is a time, or a number of KiB, MiB or GiB.
func isQuantity(value ast.Expr) (is bool) {
	ast.Inspect(value, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			is = is || ofTime[n.Sel.Name] != 0
		case *ast.BinaryExpr:
			bits, ok := n.Y.(*ast.BasicLit)
			is = is || n.Op == token.SHL && ok && slices.Contains([]string{"10", "20", "30"}, bits.Value)
		}
		return true
	})
	return is
}

// eval computes an expression of numbers, times, and other constants of the same file.
func (s source) eval(e ast.Expr) (constant.Value, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		return constant.MakeFromLiteral(e.Value, e.Kind, 0), e.Kind == token.INT
	case *ast.ParenExpr:
		return s.eval(e.X)
	case *ast.Ident:
		if value := s.values[e.Name]; value != nil && value != ast.Expr(e) {
			return s.eval(value)
		}
	case *ast.SelectorExpr:
		n, ok := ofTime[e.Sel.Name]
		return constant.MakeInt64(n), ok
	case *ast.UnaryExpr:
		x, ok := s.eval(e.X)
		return constant.UnaryOp(e.Op, x, 0), ok
	case *ast.BinaryExpr:
		x, ok := s.eval(e.X)
		y, ok2 := s.eval(e.Y)
		if !ok || !ok2 {
			break
		}
		if e.Op == token.SHL {
			bits, _ := constant.Uint64Val(y)
			return constant.Shift(x, e.Op, uint(bits)), true
		}
		return constant.BinaryOp(x, e.Op, y), true
	}
	return constant.MakeUnknown(), false
}

// shipped are the Go files of the programs that are installed.
func shipped(t *testing.T) (files []string) {
	t.Helper()
	list := exec.Command("go", "list", "-deps",
		"-f", `{{if not .Standard}}{{$dir := .Dir}}{{range .GoFiles}}{{$dir}}/{{.}}{{"\n"}}{{end}}{{end}}`,
		"vifproxy/cmd/vifproxyd", "vifproxy/cmd/vifproxyctl", "vifproxy/cmd/vifproxy-confine", "vifproxy/cmd/vifproxy-names",
		"vifproxy/cmd/vifproxy-switchboard", "vifproxy/cmd/vifproxy-client", "vifproxy/cmd/vifproxy-qrexec")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs(top)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		path, ours := strings.CutPrefix(strings.TrimSpace(line), root+"/")
		if ours && !strings.HasPrefix(path, "vendor/") {
			files = append(files, path)
		}
	}
	return files
}

// TestEveryBoundIsDocumented holds the table against the sources: each row has the value that is set, and each constant
// of a shipped program that is a time, a size, or called a bound has a row. A time or size in the midst of code has a name.
func TestEveryBoundIsDocumented(t *testing.T) {
	rows := documented(t)
	for _, path := range shipped(t) {
		s := read(t, path)
		for _, at := range s.unnamed {
			t.Errorf("%s: give this a name, and docs/bounds.md a row for it", at)
		}
		for _, name := range slices.Sorted(maps.Keys(s.bounds)) {
			if _, ok := rows[place{path, name}]; s.bounds[name] && !ok {
				t.Errorf("docs/bounds.md has no row \"| bound | value | reason | `%s` in %s |\"", name, path)
			}
		}
	}
	for at, value := range rows {
		if strings.HasSuffix(at.file, ".go") {
			checkGo(t, at, value)
		} else {
			checkSetting(t, at, value)
		}
	}
}

func checkGo(t *testing.T, at place, value string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(top, at.file)); err != nil {
		t.Errorf("docs/bounds.md: %v", err)
		return
	}
	s := read(t, at.file)
	expression, ok := s.values[at.name]
	if !ok {
		t.Errorf("docs/bounds.md: there is no %s", at)
		return
	}
	if is, ok := s.eval(expression); !ok || !says(value, is) {
		t.Errorf("docs/bounds.md: %s is %s, and not %s", at, is, value)
	}
}

// checkSetting looks for NAME=VALUE in a unit.
func checkSetting(t *testing.T, at place, value string) {
	t.Helper()
	unit, err := os.ReadFile(filepath.Join(top, at.file))
	if err != nil {
		t.Errorf("docs/bounds.md: %v", err)
		return
	}
	line := at.name + "=" + strings.ReplaceAll(value, " ", "")
	if !slices.Contains(strings.Split(string(unit), "\n"), line) {
		t.Errorf("docs/bounds.md: %s has no line %s", at.file, line)
	}
}
