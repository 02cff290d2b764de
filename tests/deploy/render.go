// Renders a chart as helm template does, with the same engine (Go's text/template and sprig), where helm itself cannot be
// had. Usage: render CHART RELEASE NAMESPACE < VALUES.yaml > MANIFESTS.yaml. What it lacks of helm: lookup, tpl, subcharts.
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"gopkg.in/yaml.v3"
)

func read(data []byte) map[string]interface{} {
	value := map[string]interface{}{}
	check(yaml.Unmarshal(data, &value))
	return value
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// merge lays given values over the chart's own, table by table, as helm does.
func merge(under, over map[string]interface{}) map[string]interface{} {
	for key, value := range over {
		table, isTable := value.(map[string]interface{})
		below, wasTable := under[key].(map[string]interface{})
		if isTable && wasTable {
			under[key] = merge(below, table)
		} else {
			under[key] = value
		}
	}
	return under
}

func main() {
	chart, release, namespace := os.Args[1], os.Args[2], os.Args[3]
	file := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(chart, name))
		check(err)
		return data
	}
	given, err := io.ReadAll(os.Stdin)
	check(err)
	meta := read(file("Chart.yaml"))
	capital := map[string]interface{}{}
	for key, value := range meta {
		capital[strings.ToUpper(key[:1])+key[1:]] = value
	}
	all := template.New("chart").Option("missingkey=zero")
	functions := sprig.TxtFuncMap()
	functions["toYaml"] = func(value interface{}) string {
		data, err := yaml.Marshal(value)
		check(err)
		return strings.TrimSuffix(string(data), "\n")
	}
	functions["include"] = func(name string, value interface{}) (string, error) {
		var out bytes.Buffer
		err := all.ExecuteTemplate(&out, name, value)
		return out.String(), err
	}
	functions["required"] = func(message string, value interface{}) (interface{}, error) {
		if value == nil || value == "" {
			return nil, fmt.Errorf("%s", message)
		}
		return value, nil
	}
	all.Funcs(functions)
	paths, err := filepath.Glob(filepath.Join(chart, "templates", "*"))
	check(err)
	for _, path := range paths {
		data, err := os.ReadFile(path)
		check(err)
		_, err = all.New(filepath.Base(path)).Parse(string(data))
		check(err)
	}
	scope := map[string]interface{}{
		"Values":  merge(read(file("values.yaml")), read(given)),
		"Chart":   capital,
		"Release": map[string]interface{}{"Name": release, "Namespace": namespace, "Service": "Helm", "IsInstall": true},
	}
	for _, path := range paths {
		if filepath.Ext(path) == ".yaml" {
			fmt.Println("---")
			check(all.ExecuteTemplate(os.Stdout, filepath.Base(path), scope))
		}
	}
}
