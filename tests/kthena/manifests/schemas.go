// Package manifests checks `examples/kthena`: fields and values by schemas, pods by Kubernetes' own types, and the traps that
// the example is there to avoid.
package manifests

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// Object is a manifest as the API server sees it before it knows its type.
type Object = map[string]any

// Schemas validates objects as an API server does that has these definitions: unknown fields are errors, as with strict
// field validation.
type Schemas map[string]*v1.JSONSchemaProps

func kindOf(group, version, kind string) string { return group + "/" + version + " " + kind }

// Definitions takes the schemas out of CustomResourceDefinitions.
func Definitions(all ...v1.CustomResourceDefinition) Schemas {
	schemas := Schemas{}
	for _, one := range all {
		for _, version := range one.Spec.Versions {
			if version.Schema != nil {
				schemas[kindOf(one.Spec.Group, version.Name, one.Spec.Names.Kind)] = version.Schema.OpenAPIV3Schema
			}
		}
	}
	return schemas
}

// Read takes them from all YAML files below a folder that hold one.
func Read(folder string) (Schemas, error) {
	var all []v1.CustomResourceDefinition
	err := filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".yaml" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), "kind: CustomResourceDefinition") {
			return err
		}
		var one v1.CustomResourceDefinition
		if err := yaml.Unmarshal(text, &one); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, one)
		return nil
	})
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("%s holds no CustomResourceDefinition", folder)
	}
	return Definitions(all...), err
}

// Check tells all that is wrong with an object.
func (s Schemas) Check(object Object) error {
	version, _ := object["apiVersion"].(string)
	kind, _ := object["kind"].(string)
	known, found := s[version+" "+kind]
	if !found {
		return fmt.Errorf("no schema for %s %s", version, kind)
	}
	var props apiextensions.JSONSchemaProps
	if err := v1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(known, &props, nil); err != nil {
		return err
	}
	structural, err := schema.NewStructural(&props)
	if err != nil {
		return err
	}
	object = runtime.DeepCopyJSON(object)
	track := schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}
	unknown := pruning.PruneWithOptions(object, structural, true, track)
	slices.Sort(unknown)
	var wrong []error
	for _, path := range unknown {
		wrong = append(wrong, fmt.Errorf("unknown field %s", path))
	}
	defaulting.Default(object, structural)
	validator, _, err := validation.NewSchemaValidator(&props)
	if err != nil {
		return err
	}
	for _, one := range validation.ValidateCustomResource(nil, object, validator) {
		wrong = append(wrong, one)
	}
	return errors.Join(wrong...)
}
