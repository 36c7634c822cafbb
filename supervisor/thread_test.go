package supervisor

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// The compiler keeps other goroutines from the loop as long as nobody hands it to them. So no type has a loop, and what begins a
// goroutine in a function that has it mentions it in letters alone, which the loop calls with itself.
func TestOtherGoroutinesDoNotHaveTheLoop(t *testing.T) {
	fset := token.NewFileSet()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	begun := 0
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.StructType:
				for _, field := range n.Fields.List {
					if isLoop(field.Type) {
						t.Errorf("%s: a loop is stored", fset.Position(field.Pos()))
					}
				}
			case *ast.GoStmt:
				begun++
				handsOn(t, fset, n.Call.Fun)
			case *ast.CallExpr:
				if begins(n.Fun) {
					begun++
					for _, arg := range n.Args {
						handsOn(t, fset, arg)
					}
				}
			}
			return true
		})
	}
	if begun < 8 {
		t.Errorf("%d places begin a goroutine: are they found?", begun)
	}
}

// begins reports whether a function begins a goroutine with its argument, now or later.
func begins(f ast.Expr) bool {
	switch f := f.(type) {
	case *ast.SelectorExpr:
		return f.Sel.Name == "Go" || f.Sel.Name == "AfterFunc" || f.Sel.Name == "WhenDone"
	case *ast.Ident:
		return f.Name == "beside"
	}
	return false
}

// handsOn objects to function literals that mention the loop, but for letters.
func handsOn(t *testing.T, fset *token.FileSet, what ast.Expr) {
	ast.Inspect(what, func(n ast.Node) bool {
		literal, ok := n.(*ast.FuncLit)
		if !ok {
			return true
		}
		for _, param := range literal.Type.Params.List {
			if isLoop(param.Type) {
				return false
			}
		}
		ast.Inspect(literal.Body, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncLit:
				handsOn(t, fset, n)
				return false
			case *ast.Ident:
				if n.Name == "l" {
					t.Errorf("%s: another goroutine has the loop", fset.Position(n.Pos()))
				}
			}
			return true
		})
		return false
	})
}

// isLoop reports whether a type is the loop, or leads to it.
func isLoop(t ast.Expr) bool {
	switch t := t.(type) {
	case *ast.StarExpr:
		return isLoop(t.X)
	case *ast.ArrayType:
		return isLoop(t.Elt)
	case *ast.MapType:
		return isLoop(t.Value)
	case *ast.Ident:
		return t.Name == "loop"
	}
	return false
}
