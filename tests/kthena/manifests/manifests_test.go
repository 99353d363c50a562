package manifests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/json"
	strictly "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

const examples = "../../../examples/kthena"

// set is the whole example, by file name.
type set map[string]string

func example(t *testing.T) set {
	t.Helper()
	files := set{}
	for _, name := range []string{"modelserving.yaml", "modelserver.yaml", "modelroute.yaml", "networkpolicy.yaml"} {
		text, err := os.ReadFile(filepath.Join(examples, name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(text)
	}
	return files
}

func (s set) object(name string) (Object, error) {
	text, err := yaml.YAMLToJSONStrict([]byte(s[name]))
	if err != nil {
		return nil, err
	}
	var object Object
	return object, json.Unmarshal(text, &object)
}

// strict decodes into a type of Kubernetes, and refuses fields that it does not have.
func strict(from, into any) error {
	text, err := json.Marshal(from)
	if err != nil {
		return err
	}
	wrong, err := strictly.UnmarshalStrict(text, into)
	if err != nil {
		return err
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%v", wrong)
	}
	return nil
}

// check validates all objects: those of Kthena by `schemas`, the pods in them and the policy by Kubernetes' types.
func (s set) check(schemas Schemas) error {
	for _, name := range []string{"modelserving.yaml", "modelserver.yaml", "modelroute.yaml"} {
		object, err := s.object(name)
		if err == nil {
			err = schemas.Check(object)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if _, err := s.pods(); err != nil {
		return err
	}
	_, err := s.policy()
	return err
}

func (s set) policy() (policy networkingv1.NetworkPolicy, err error) {
	object, err := s.object("networkpolicy.yaml")
	if err == nil {
		err = strict(object, &policy)
	}
	return policy, err
}

// pods are the entry pods by role.
func (s set) pods() (map[string]corev1.PodTemplateSpec, error) {
	object, err := s.object("modelserving.yaml")
	if err != nil {
		return nil, err
	}
	pods := map[string]corev1.PodTemplateSpec{}
	for _, one := range at(object, "spec", "template", "roles").([]any) {
		role := one.(Object)
		var pod corev1.PodTemplateSpec
		if err := strict(role["entryTemplate"], &pod); err != nil {
			return nil, fmt.Errorf("pod of %s: %w", role["name"], err)
		}
		pods[role["name"].(string)] = pod
	}
	return pods, nil
}

// at goes down a tree of objects.
func at(object any, path ...string) any {
	for _, key := range path {
		below, _ := object.(Object)
		object = below[key]
	}
	return object
}

func TestTheExampleIsValidAsFarAsKthenasFieldsAreKnown(t *testing.T) {
	if err := example(t).check(Definitions(Restated()...)); err != nil {
		t.Error(err)
	}
}

// Each of these is a way to be wrong that must be noticed: file, what stands there, what is put in its place, and a part
// of what must be said.
var wrong = [][4]string{
	{"modelserving.yaml", "recoveryPolicy:", "recoverPolicy:", "unknown field spec.recoverPolicy"},
	{"modelserving.yaml", "recoveryPolicy: RoleRecreate", "recoveryPolicy: PodRecreate", "supported values"},
	{"modelserving.yaml", "workerReplicas: 0", "workerReplica: 0", "unknown field spec.template.roles[0].workerReplica"},
	{"modelserving.yaml", "workerReplicas: 0", "workerReplicas: none", "must be of type integer"},
	{"modelserving.yaml", "name: prefill", "name: prefill-instances", "more than 12"},
	{"modelserving.yaml", "metadata:\n            labels", "metadata:\n            label", "entryTemplate.metadata.label"},
	{"modelserving.yaml", "readinessProbe:", "readynessProbe:", `unknown field "spec.containers[0].readynessProbe"`},
	{"modelserving.yaml", "sizeLimit:", "sizelimit:", `unknown field "spec.volumes[0].emptyDir.sizelimit"`},
	{"modelserving.yaml", "apiVersion: workload", "apiVersion: workloads", "no schema"},
	{"modelserver.yaml", "inferenceEngine: vLLM", "inferenceEngine: vllm", "supported values"},
	{"modelserver.yaml", "inferenceEngine: vLLM", "engine: vLLM", "unknown field spec.engine"},
	{"modelserver.yaml", "type: nixl", "type: ropeway", "supported values"},
	{"modelserver.yaml", "port: 8000", "port: 80000", "less than or equal to 65535"},
	{"modelserver.yaml", "groupKey:", "groupLabel:", "groupKey: Required value"},
	{"modelroute.yaml", "modelServerName:", "modelServer:", "modelServerName: Required value"},
	{"networkpolicy.yaml", "podSelector:", "podSelectors:", `unknown field "spec.podSelectors"`},
	{"networkpolicy.yaml", "protocol: TCP", "proto: TCP", `unknown field "spec.ingress[1].ports[0].proto"`},
}

func (s set) with(t *testing.T, file, from, to string) set {
	t.Helper()
	if !strings.Contains(s[file], from) {
		t.Fatalf("%s has no %q", file, from)
	}
	other := set{}
	for name, text := range s {
		other[name] = text
	}
	other[file] = strings.Replace(s[file], from, to, 1)
	return other
}

func TestEachMisspeltFieldAndWrongValueIsNoticed(t *testing.T) {
	schemas := Definitions(Restated()...)
	for _, one := range wrong {
		err := example(t).with(t, one[0], one[1], one[2]).check(schemas)
		if err == nil || !strings.Contains(err.Error(), one[3]) {
			t.Errorf("%s with %q: %v", one[0], one[2], err)
		}
	}
}

func TestDefinitionsInFilesSayTheSameAsThoseInMemory(t *testing.T) {
	folder := t.TempDir()
	if _, err := Read(folder); err == nil {
		t.Error("an empty folder is taken for definitions")
	}
	for _, one := range Restated() {
		one.Kind = "CustomResourceDefinition"
		text, err := yaml.Marshal(one)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, one.Spec.Names.Kind+".yaml"), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	schemas, err := Read(folder)
	if err != nil {
		t.Fatal(err)
	}
	if err := example(t).check(schemas); err != nil {
		t.Error(err)
	}
	misspelt := example(t).with(t, wrong[0][0], wrong[0][1], wrong[0][2])
	if err := misspelt.check(schemas); err == nil || !strings.Contains(err.Error(), wrong[0][3]) {
		t.Error(err)
	}
}

// Kthena's own definitions are not in this repository: a folder with them is named by KTHENA_CRDS, for instance charts/kthena
// of a checkout.
func TestTheExampleIsValidByKthenasOwnDefinitions(t *testing.T) {
	folder := os.Getenv("KTHENA_CRDS")
	if folder == "" {
		cannotRun(t, "KTHENA_CRDS names no folder with Kthena's CustomResourceDefinitions")
	}
	schemas, err := Read(folder)
	if err != nil {
		t.Fatal(err)
	}
	if err := example(t).check(schemas); err != nil {
		t.Error(err)
	}
	misspelt := example(t).with(t, wrong[0][0], wrong[0][1], wrong[0][2])
	if misspelt.check(schemas) == nil {
		t.Error("a misspelt field is not noticed")
	}
}

// cannotRun skips, and notes it where `cargo xtask test` looks for what did not run.
func cannotRun(t *testing.T, why string) {
	if log := os.Getenv("ROPEWAY_ABSENT"); log != "" {
		file, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = fmt.Fprintf(file, "%s: %s\n", t.Name(), why)
			_ = file.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Skip(why)
}
